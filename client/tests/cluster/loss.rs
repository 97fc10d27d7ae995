//! A person goes on with an old copy of a chunk whose good ones are gone
//! (`spec/replication.md` section 8).

use serde_json::Value;

use crate::harness::{Cluster, noise};
use crate::returning::SETTINGS;

/// Who was away while the second chunk changed.
const AWAY: usize = 2;

#[test]
fn an_old_copy_of_a_chunk_at_rest_is_gone_on_with_when_a_person_says_so() {
    let mut cluster = Cluster::start_with(3, &[SETTINGS, &["chunk_size=1MiB"]].concat());
    let old = noise(3 << 20, 1);
    cluster.put(&old, "/file");
    cluster.until_healthy();
    let located = cluster.sarsen(&["--json", "locate", "/file"]).json();
    let handle = located["chunks"][1]["handle"].as_str().expect("a handle");
    let accept = ["--json", "fsck", "--accept-loss", handle];
    let refused = cluster.sarsen(&accept);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    assert!(
        refused.stderr.contains("no loss to accept"),
        "{}",
        refused.stderr
    );

    cluster.kill_chunkserver(AWAY);
    let offset = (1 << 20) + 1000;
    let args = ["write", "--offset", &offset.to_string(), "/file"];
    let write = cluster.sarsen_with_input(&args, b"what will be lost");
    assert_eq!(write.code, Some(0), "{}", write.stderr);
    cluster.until("it is sealed without who is away", |cluster| {
        let located = cluster.sarsen(&["--json", "locate", "/file"]).json();
        (located["chunks"][1]["state"] == "sealed").then_some(())
    });
    for gone in [0, 1] {
        cluster.kill_chunkserver(gone);
    }
    cluster.start_chunkserver(AWAY);
    cluster.until("the old copy is all there is", |cluster| {
        (findings(cluster, handle) == ["missing", "stale"]).then_some(())
    });
    let accepted = cluster.until("it is accepted", |cluster| {
        let done = cluster.sarsen(&accept);
        (done.code == Some(0)).then(|| done.json())
    });
    assert_eq!(accepted["handle"], handle);
    assert_eq!(accepted["length"], 1 << 20);
    assert_eq!(cluster.bytes("/file"), old);
    let again = cluster.sarsen(&accept);
    assert_eq!(again.code, Some(2), "{}", again.stderr);

    // The newer copies are stale now, and are replaced; what was decided stays listed.
    for back in [0, 1] {
        cluster.start_chunkserver(back);
    }
    cluster.until("all have what was gone on with", |cluster| {
        (findings(cluster, handle) == ["possible_loss"]).then_some(())
    });
    cluster.kill_chunkserver(AWAY);
    assert_eq!(cluster.bytes("/file"), old);
}

/// The classes of `fsck` that name a chunk.
fn findings(cluster: &Cluster, handle: &str) -> Vec<String> {
    // It says by its exit code that there is something.
    let report = cluster.sarsen(&["--json", "fsck"]);
    let report: Value = serde_json::from_slice(&report.stdout).expect("JSON");
    let classes = report.as_object().expect("an object").iter();
    let names_it = |list: &Value| {
        let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
        list.iter().any(|it| it["handle"] == handle)
    };
    let classes = classes.filter(|(_, list)| names_it(list));
    classes.map(|(class, _)| class.clone()).collect()
}
