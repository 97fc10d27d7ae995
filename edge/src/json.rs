//! The JSON documents that both the master's HTTP port and `sarsen --json` give out.
//!
//! Their fields are fixed: people script against them. Server ids are strings, times RFC 3339 in
//! UTC, CRCs eight hex digits, handles sixteen.

use std::time::{Duration, UNIX_EPOCH};

use sarsen_protocol::message::{
    Disk, Finding, FsckFinding, ListEntry, Node, NodeType, ReportReply, ServerReport,
};
use serde_json::{Map, Value, json};

/// Unix milliseconds as RFC 3339; the end of the year 9999 for anything later.
#[must_use]
pub fn time(unix_ms: u64) -> String {
    const YEAR_9999_END_MS: u64 = 253_402_300_799_999;
    let since = Duration::from_millis(unix_ms.min(YEAR_9999_END_MS));
    humantime::format_rfc3339_millis(UNIX_EPOCH + since).to_string()
}

/// A CRC as eight hex digits.
#[must_use]
pub fn crc32(crc: u32) -> String {
    format!("{crc:08x}")
}

/// `file` or `dir`.
#[must_use]
pub const fn node_type(node_type: NodeType) -> &'static str {
    match node_type {
        NodeType::File => "file",
        NodeType::Folder => "dir",
    }
}

/// What `stat` gives.
#[must_use]
pub fn stat(path: &str, node: &Node) -> Value {
    let is_sealed_file = node.node_type == NodeType::File && node.sealed;
    json!({
        "path": path,
        "type": node_type(node.node_type),
        "size": node.size,
        "replicas": node.replicas,
        "chunks": node.chunks,
        "mtime": time(node.mtime),
        "crc32": is_sealed_file.then(|| crc32(node.crc32)),
    })
}

/// One element of what `ls` gives; `path` is that of the entry itself.
#[must_use]
pub fn list_entry(path: &str, entry: &ListEntry) -> Value {
    json!({
        "name": entry.name,
        "path": path,
        "type": node_type(entry.node.node_type),
        "size": entry.node.size,
        "mtime": time(entry.node.mtime),
    })
}

/// What `report` gives.
#[must_use]
pub fn report(report: &ReportReply) -> Value {
    json!({
        "epoch": report.epoch.number,
        "safe_mode": report.safe_mode,
        "read_only": report.read_only,
        "servers": report.servers.iter().map(server).collect::<Vec<_>>(),
        "repairs": {
            "waiting": report.repairs.waiting,
            "running": report.repairs.running,
            "done": report.repairs.done,
            "failed": report.repairs.failed,
        },
    })
}

fn server(server: &ServerReport) -> Value {
    let heard = (server.last_heartbeat != u32::MAX).then_some(server.last_heartbeat);
    json!({
        "id": server.id.to_string(),
        "control_addr": server.control_addr,
        "data_addr": server.data_addr,
        "http_addr": server.http_addr,
        "rack": server.rack,
        "state": server.state.name(),
        "disks": server.disks.iter().map(disk).collect::<Vec<_>>(),
        "last_heartbeat_ms": heard,
    })
}

fn disk(disk: &Disk) -> Value {
    json!({
        "dir": disk.path,
        "total": disk.total,
        "free": disk.free,
        "chunks": disk.chunks,
        "state": disk.state.name(),
    })
}

/// What `fsck` gives: `files` and `chunks` were looked at, `findings` are all that is wrong.
#[must_use]
pub fn fsck<'a>(
    files: u64,
    chunks: u64,
    findings: impl IntoIterator<Item = &'a FsckFinding>,
) -> Value {
    let mut classes: Map<String, Value> = Finding::ALL
        .iter()
        .map(|finding| (finding.name().to_owned(), json!([])))
        .collect();
    let mut healthy = true;
    for finding in findings {
        healthy = false;
        if let Some(Value::Array(list)) = classes.get_mut(finding.finding.name()) {
            list.push(fsck_finding(finding));
        }
    }
    let mut document = json!({ "healthy": healthy, "files": files, "chunks": chunks });
    if let Value::Object(fields) = &mut document {
        fields.append(&mut classes);
    }
    document
}

fn fsck_finding(finding: &FsckFinding) -> Value {
    let mut entry = json!({
        "handle": finding.handle.to_string(),
        "path": finding.path,
        "want": finding.want,
        "have": finding.have,
    });
    if matches!(finding.finding, Finding::Stale | Finding::Corrupt) {
        entry["server"] = json!(finding.server.to_string());
    }
    entry
}

#[cfg(test)]
mod tests {
    use sarsen_protocol::id::{ChunkHandle, FileId, ServerId};

    use super::*;

    #[test]
    fn a_files_fields_are_as_promised() {
        let mut node = Node {
            file_id: FileId(7),
            node_type: NodeType::File,
            size: 3,
            mtime: 1_700_000_000_123,
            replicas: 3,
            chunks: 1,
            sealed: true,
            crc32: 0x0abc_def0,
        };
        let told = json!({
            "path": "/a", "type": "file", "size": 3, "replicas": 3, "chunks": 1,
            "mtime": "2023-11-14T22:13:20.123Z", "crc32": "0abcdef0",
        });
        assert_eq!(stat("/a", &node), told);
        node.sealed = false;
        assert_eq!(stat("/a", &node)["crc32"], Value::Null);
        assert_eq!(time(u64::MAX), "9999-12-31T23:59:59.999Z");
    }

    #[test]
    fn every_class_of_fsck_is_there_even_when_empty() {
        let finding = FsckFinding {
            finding: Finding::Corrupt,
            handle: ChunkHandle(0xab),
            path: "/a".into(),
            want: 3,
            have: 2,
            server: ServerId(4),
        };
        let healthy = json!({
            "healthy": true, "files": 1, "chunks": 2, "missing": [], "under_replicated": [],
            "stale": [], "corrupt": [], "unavailable": [], "possible_loss": [],
        });
        assert_eq!(fsck(1, 2, []), healthy);
        let sick = fsck(1, 2, [&finding]);
        assert_eq!(sick["healthy"], false);
        let entry = json!({
            "handle": "00000000000000ab", "path": "/a", "want": 3, "have": 2, "server": "4",
        });
        assert_eq!(sick["corrupt"], json!([entry]));
    }
}
