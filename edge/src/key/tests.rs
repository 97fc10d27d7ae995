use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn mode_of(path: &Path) -> u32 {
    fs::metadata(path).expect("exists").permissions().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("is ours");
}

#[test]
fn a_generated_key_is_durable_private_and_the_one_loaded() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("key");
    let key = generate(&path).expect("generates");
    assert_eq!(load(&path).expect("loads"), key);
    assert_eq!(mode_of(&path), 0o600);
    let text = fs::read_to_string(&path).expect("reads");
    assert_eq!((text.len(), text.ends_with('\n')), (FILE_LEN, true));
    assert_ne!(
        generate(&folder.path().join("other")).expect("generates"),
        key
    );
}

#[test]
fn the_file_holds_the_bytes_in_order() {
    let key = SecretKey::new(std::array::from_fn(|index| {
        u8::try_from(index * 8).expect("< 256")
    }));
    let text = "0008101820283038404850586068707880889098a0a8b0b8c0c8d0d8e0e8f0f8\n";
    assert_eq!(text_of(&key), text);
    assert_eq!(parse(text.as_bytes()), Some(key));
}

#[test]
fn a_key_is_never_overwritten_and_nothing_is_left_beside_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("key");
    let key = generate(&path).expect("generates");
    let error = generate(&path).expect_err("exists");
    assert!(matches!(error, KeyError::AlreadyExists { .. }), "{error:?}");
    assert_eq!(error.exit(), Exit::AlreadyExists);
    assert_eq!(load_or_generate(&path).expect("loads"), key);
    assert_eq!(fs::read_dir(folder.path()).expect("reads").count(), 1);
}

#[test]
fn a_key_is_made_only_where_its_folder_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("missing").join("key");
    assert!(matches!(generate(&path), Err(KeyError::Unwritable { .. })));
    assert!(matches!(load(&path), Err(KeyError::Missing { .. })));
}

#[test]
fn a_key_that_others_can_reach_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("key");
    generate(&path).expect("generates");
    for mode in [0o640, 0o604, 0o620, 0o666] {
        set_mode(&path, mode);
        let error = load(&path).expect_err("is open");
        assert!(matches!(error, KeyError::OpenToOthers { mode: seen, .. } if seen == mode));
        assert_eq!(
            error.hint().expect("a hint").matches("chmod 600").count(),
            1
        );
        assert_eq!(error.exit(), Exit::Usage);
    }
    set_mode(&path, 0o400);
    load(&path).expect("only its owner can read it");
}

#[test]
fn what_is_no_key_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("key");
    let digits = "0123456789abcdef".repeat(4);
    let upper = digits.to_uppercase();
    let spaced = format!("{} \n", &digits[1..]);
    for text in [
        "",
        "\n",
        &digits,
        &digits[..63],
        &format!("{digits}\n\n"),
        &format!("{digits}\r\n"),
        &format!("{digits}0\n"),
        &format!("{upper}\n"),
        &format!("{}é\n", &digits[2..]),
        &spaced,
        &digits.repeat(1000),
    ] {
        fs::write(&path, text).expect("writes");
        set_mode(&path, 0o600);
        assert!(
            matches!(load(&path), Err(KeyError::Malformed { .. })),
            "{text:?}"
        );
    }
    assert!(
        matches!(load(folder.path()), Err(KeyError::Malformed { .. })),
        "a folder"
    );
}

#[test]
fn a_pipe_given_as_a_key_does_not_wait_for_a_writer() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("pipe");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0)
        .expect("makes a pipe");
    assert!(matches!(load(&path), Err(KeyError::Malformed { .. })));
}

#[test]
fn a_given_key_file_is_taken_and_its_absence_is_not_made_up_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("key");
    let masters = ["127.0.0.1:1".parse().expect("an address")];
    assert!(matches!(
        obtain(Some(&path), &masters),
        Err(KeyError::Missing { .. })
    ));
    let key = generate(&path).expect("generates");
    assert_eq!(obtain(Some(&path), &masters).expect("loads"), key);
}

/// `spec/oplog.md` section 1: a kill in a master's very first start left `.cluster-key-` and some
/// letters in its `--dir`, and every further start refused the directory as somebody else's.
#[test]
fn what_a_kill_leaves_of_a_key_is_a_temporary_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("cluster.key");
    let key = SecretKey::new(crate::random());
    let (file, _) = write_beside(&path, &key).expect("writes");
    let name = file.path().file_name().expect("a name").to_string_lossy();
    assert!(name.ends_with(".tmp"), "{name}");
}
