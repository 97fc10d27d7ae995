//! `sarsen wait` and a master that is late, or takes no changes, when it is asked since when a server
//! that says nothing is suspect.

use sarsen_client::{Client, Error};
use sarsen_protocol::message::Kind;
use sarsen_protocol::status::Status;

use crate::Cluster;
use crate::master::Slip;

/// Milliseconds since servers were heard: one just now; one not for a while, as where heartbeats are
/// rare; one for longer than the scripted master's `suspect_after`.
const HEARD: u32 = 5;
const QUIET: u32 = 1_500;
const SILENT: u32 = 60_000;

/// How many are live and how many fell silent, when so many were waited for in vain.
async fn waits_in_vain(client: &Client, chunkservers: u32) -> (u32, u32) {
    match client.wait(chunkservers).await.unwrap_err() {
        Error::StillWaiting { live, silent, .. } => (live, silent),
        error => panic!("{error}"),
    }
}

/// Each call opened a session, which is two entries in the master's log, to learn of a limit that made no
/// difference.
#[tokio::test]
async fn a_session_is_opened_only_where_it_makes_a_difference() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client().await;
    for (silences, wanted) in [
        (&[HEARD, 900][..], 2),
        (&[HEARD, SILENT], 1),
        (&[HEARD, QUIET, SILENT], 1),
    ] {
        cluster.master.set_silences(silences);
        client.wait(wanted).await.unwrap();
        assert_eq!(cluster.master.asked().sessions, 0, "{silences:?}");
    }
    let impatient = cluster.impatient_client().await;
    cluster.master.set_silences(&[HEARD, SILENT]);
    assert_eq!(waits_in_vain(&impatient, 3).await, (2, 0));
    assert_eq!(cluster.master.asked().sessions, 0);
    cluster.master.set_silences(&[HEARD, QUIET]);
    client.wait(2).await.unwrap();
    assert_eq!(cluster.master.asked().sessions, 1);
    cluster.master.set_silences(&[HEARD, QUIET, SILENT]);
    assert_eq!(waits_in_vain(&impatient, 3).await, (2, 1));
}

/// Safe mode began between the report and the question, or the log was found to be damaged: the wait ended
/// with the refusal, and did not look again.
#[tokio::test]
async fn a_master_that_takes_no_changes_is_asked_again() {
    for status in [Status::SafeMode, Status::ReadOnly] {
        let cluster = Cluster::start(1).await;
        cluster.master.set_silences(&[HEARD, QUIET]);
        let refused = (Kind::OpenSession, status);
        cluster.master.always_refuse(Some(refused));
        let impatient = cluster.impatient_client().await;
        assert_eq!(waits_in_vain(&impatient, 2).await, (1, 1), "{status}");
        cluster.master.always_refuse(None);
        let before = cluster.master.asked().kinds.len();
        cluster.master.slip(Slip::Refuse(refused.0, status));
        cluster.client().await.wait(2).await.unwrap();
        let asked = cluster.master.asked().kinds.split_off(before);
        let once = [Kind::Report, Kind::OpenSession];
        assert_eq!(asked, [once, once].concat(), "{status}");
    }
}

/// It had all of another request's time, after that of the wait, and ended as that does.
#[tokio::test]
async fn a_master_that_is_late_is_waited_for_no_longer_than_was_asked() {
    let cluster = Cluster::start(1).await;
    cluster.master.set_silences(&[HEARD, QUIET]);
    cluster.master.slip(Slip::KeepAnswer(Kind::OpenSession));
    let impatient = cluster.impatient_client().await;
    assert_eq!(waits_in_vain(&impatient, 2).await, (1, 1));
}
