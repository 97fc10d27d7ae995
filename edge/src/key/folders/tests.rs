use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;

fn mode_of(path: &Path) -> u32 {
    fs::metadata(path).expect("exists").mode() & 0o7777
}

fn uid_of(path: &Path) -> u32 {
    fs::metadata(path).expect("exists").uid()
}

fn random_key() -> SecretKey {
    SecretKey::new(crate::random())
}

fn control(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

#[test]
fn a_published_key_is_found_by_address_and_goes_with_its_guard() {
    let temporary = tempfile::tempdir().expect("a folder");
    let folders = KeyFolders::new(uid_of(temporary.path()), None, temporary.path());
    let address = control("127.0.0.1:7400");
    assert_eq!(folders.find(address).expect("nothing wrong"), None);
    let key = random_key();
    let published = folders.publish(address, &key).expect("publishes");
    assert_eq!(mode_of(published.path()), 0o600);
    assert_eq!(mode_of(published.path().parent().expect("a folder")), 0o700);
    assert_eq!(folders.find(address).expect("finds"), Some(key.clone()));
    assert_eq!(
        folders
            .find(control("[::ffff:127.0.0.1]:7400"))
            .expect("same"),
        Some(key)
    );
    for other in ["127.0.0.1:7401", "[::1]:7400"] {
        assert_eq!(folders.find(control(other)).expect("nothing wrong"), None);
    }
    drop(published);
    assert_eq!(folders.find(address).expect("nothing wrong"), None);
}

#[test]
fn a_master_that_ends_leaves_its_successors_key() {
    let temporary = tempfile::tempdir().expect("a folder");
    let folders = KeyFolders::new(uid_of(temporary.path()), None, temporary.path());
    let address = control("[::1]:7400");
    let key = random_key();
    // The same key, as after a restart: what counts is who wrote the file.
    let first = folders.publish(address, &key).expect("publishes");
    let second = folders.publish(address, &key).expect("publishes");
    drop(first);
    assert_eq!(folders.find(address).expect("finds"), Some(key));
    drop(second);
    assert_eq!(folders.find(address).expect("nothing wrong"), None);
}

#[test]
fn the_runtime_folder_comes_first_and_the_temporary_one_is_looked_into_too() {
    let (runtime, temporary) = (
        tempfile::tempdir().expect("a folder"),
        tempfile::tempdir().expect("a folder"),
    );
    let uid = uid_of(temporary.path());
    let both = KeyFolders::new(uid, Some(runtime.path()), temporary.path());
    let only_temporary = KeyFolders::new(uid, None, temporary.path());
    let (session, service) = (control("127.0.0.1:1"), control("127.0.0.1:2"));
    let key = random_key();
    let by_session = both.publish(session, &key).expect("publishes");
    assert!(by_session.path().starts_with(runtime.path().join("sarsen")));
    let by_service = only_temporary.publish(service, &key).expect("publishes");
    assert!(
        by_service
            .path()
            .starts_with(temporary.path().join(format!("sarsen-{uid}")))
    );
    assert_eq!(both.find(service).expect("finds"), Some(key));
}

#[test]
fn a_runtime_folder_that_is_missing_relative_or_not_ours_is_passed_over() {
    let temporary = tempfile::tempdir().expect("a folder");
    let uid = uid_of(temporary.path());
    let gone = temporary.path().join("gone");
    for (uid, runtime) in [
        (uid, gone.as_path()),
        (uid, Path::new(".")),
        (uid.wrapping_add(1), temporary.path()),
    ] {
        let folders = KeyFolders::new(uid, Some(runtime), temporary.path());
        assert_eq!(folders.runtime, None, "{}", runtime.display());
    }
}

#[test]
fn a_folder_that_can_not_be_trusted_is_neither_written_nor_read() {
    let fault_of = |uid_step: u32, prepare: &dyn Fn(&Path)| {
        let temporary = tempfile::tempdir().expect("a folder");
        let uid = uid_of(temporary.path()).wrapping_add(uid_step);
        let folders = KeyFolders::new(uid, None, temporary.path());
        prepare(&temporary.path().join(format!("sarsen-{uid}")));
        let address = control("127.0.0.1:7400");
        let key = random_key();
        let faults = [
            folders.publish(address, &key).map(drop),
            folders.find(address).map(drop),
        ];
        faults.map(|result| match result {
            Err(KeyError::FolderUntrusted { fault, .. }) => fault,
            other => panic!("{other:?}"),
        })
    };
    let elsewhere = tempfile::tempdir().expect("a folder");
    let link = |path: &Path| symlink(elsewhere.path(), path).expect("links");
    let folder = |path: &Path| fs::create_dir(path).expect("creates");
    let open = |path: &Path| {
        folder(path);
        fs::set_permissions(path, Permissions::from_mode(0o750)).expect("is ours");
    };
    assert_eq!(fault_of(0, &link), [FolderFault::NotAFolder; 2]);
    assert_eq!(
        fault_of(0, &|path| fs::write(path, "").expect("writes")),
        [FolderFault::NotAFolder; 2]
    );
    assert_eq!(fault_of(1, &folder), [FolderFault::NotOurs; 2]);
    assert_eq!(fault_of(0, &open), [FolderFault::OpenToOthers; 2]);
    assert_eq!(
        fs::read_dir(elsewhere.path()).expect("reads").count(),
        0,
        "written to a link"
    );
}
