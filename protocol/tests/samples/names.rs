//! Names and the trash (`spec/messages.md` section 5).

use sarsen_protocol::message::{
    EmptyTrash, FileMade, FolderMade, MakeFile, MakeFolder, Node, NodeType, Remove, Removed,
    Rename, Renamed, RestoreTrash, TrashEmptied, TrashRestored,
};

use super::{FILE_ID, REQUEST, Samples, put};

pub(super) fn add(samples: &mut Samples) {
    put(
        samples,
        "MakeFolder",
        MakeFolder {
            request: REQUEST,
            path: "/a/ü b".into(),
            parents: true,
        },
    );
    put(samples, "FolderMade", FolderMade { file_id: FILE_ID });
    let file = |replicas, parents| MakeFile {
        request: REQUEST,
        path: "/a/ü b".into(),
        replicas,
        parents,
    };
    put(samples, "MakeFile", file(16, false));
    put(samples, "MakeFile: the cluster's default", file(0, true));
    put(
        samples,
        "FileMade",
        FileMade {
            node: Node {
                file_id: FILE_ID,
                node_type: NodeType::File,
                size: 0,
                mtime: 0x19a_1112_1314,
                replicas: 3,
                chunks: 0,
                sealed: true,
                crc32: 0,
            },
        },
    );
    put(
        samples,
        "Rename",
        Rename {
            request: REQUEST,
            source: "/from".into(),
            target: "/to".into(),
        },
    );
    put(samples, "Renamed", Renamed);
    let remove = |recursive, purge| Remove {
        request: REQUEST,
        path: "/gone".into(),
        recursive,
        purge,
    };
    put(samples, "Remove", remove(true, false));
    put(samples, "Remove: for good", remove(false, true));
    put(
        samples,
        "Removed",
        Removed {
            files: 0x101,
            bytes: 0x202,
        },
    );
    trash(samples);
}

fn trash(samples: &mut Samples) {
    let restore = |target: &str| RestoreTrash {
        request: REQUEST,
        entry: 0x303,
        target: target.into(),
    };
    put(samples, "RestoreTrash", restore("/back"));
    put(samples, "RestoreTrash: to where it was", restore(""));
    put(
        samples,
        "TrashRestored",
        TrashRestored {
            path: "/back".into(),
        },
    );
    put(
        samples,
        "EmptyTrash",
        EmptyTrash {
            request: REQUEST,
            entry: 0x303,
        },
    );
    put(
        samples,
        "TrashEmptied",
        TrashEmptied {
            entries: 0x404,
            bytes: 0x505,
        },
    );
}
