//! Changes of files that are there: each is made once, whatever is lost on the way.

use std::process::Stdio;

use sarsen_client::{Client, Error, WriteOptions};
use sarsen_edge::exit::{Exit, Explain as _};
use sarsen_protocol::id::FileId;
use sarsen_protocol::message::{Kind, Slot};
use sarsen_protocol::record;
use sarsen_protocol::status::Status;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;

use crate::command::{command, key_file};
use crate::master::Slip;
use crate::open_chunks::Trouble;
use crate::{CHUNK_SIZE, Cluster, key, noise};

const HEADER_LEN: usize = record::RECORD_HEADER_LEN;

/// A cluster with an empty file.
async fn cluster() -> (Cluster, Client, FileId) {
    let cluster = Cluster::start(1).await;
    let client = cluster.client().await;
    let file_id = client.touch("/file").await.unwrap().file_id;
    (cluster, client, file_id)
}

fn ordered() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.ordered = true;
    options
}

/// The records of a file with their offsets; every byte belongs to one, but for padding.
fn records(cluster: &Cluster, file_id: FileId) -> Vec<(u64, Vec<u8>)> {
    let mut records = Vec::new();
    for (index, chunk) in cluster.chunks.bytes(file_id).iter().enumerate() {
        let mut at = 0;
        while at < chunk.len() {
            let record = record::decode(&chunk[at..]).unwrap();
            let offset = (index * CHUNK_SIZE + at) as u64;
            records.push((offset, record.payload.to_vec()));
            at += record.encoded_len();
        }
    }
    records
}

#[tokio::test]
async fn records_of_every_size_are_where_their_receipts_say() {
    let (cluster, client, file_id) = cluster().await;
    let mut writer = client.record_writer("/file", ordered()).await.unwrap();
    let most = CHUNK_SIZE / 4 - HEADER_LEN;
    assert_eq!(writer.payload_len_max(), most);
    let sizes = [
        0, 1, 65_503, 65_504, 65_505, most, most, most, most, 9, most,
    ];
    let mut receipts = Vec::new();
    for (seed, size) in sizes.into_iter().enumerate() {
        let payload = noise(size, seed as u64);
        receipts.push((writer.append(&payload).await.unwrap(), payload));
    }
    writer.flush().await.unwrap();
    let found = records(&cluster, file_id);
    assert_eq!(found.len(), sizes.len());
    for ((receipt, payload), (offset, record)) in receipts.into_iter().zip(&found) {
        let told = receipt.await.unwrap();
        assert_eq!(told.offset, *offset);
        assert_eq!(u64::from(told.chunk), offset / CHUNK_SIZE as u64);
        assert_eq!(told.length as usize, payload.len());
        assert!(payload == *record, "in the order in which they were given");
    }
    let chunks = cluster.chunks.bytes(file_id).len();
    assert_eq!(chunks, 2, "the first was too full for one");
    // One stream a chunk, and small records together.
    let told = cluster.chunks.told();
    assert_eq!(told.streams, 2);
}

#[tokio::test]
async fn small_records_that_wait_share_frames() {
    let (cluster, client, file_id) = cluster().await;
    let mut writer = client
        .record_writer("/file", WriteOptions::default())
        .await
        .unwrap();
    for number in 0..1_000_u32 {
        drop(writer.append(&number.to_le_bytes()).await.unwrap());
    }
    writer.flush().await.unwrap();
    let found = records(&cluster, file_id);
    let numbers: Vec<u32> = found
        .iter()
        .map(|(_, payload)| u32::from_le_bytes(payload[..].try_into().unwrap()))
        .collect();
    assert!(numbers.into_iter().eq(0..1_000));
    let frames = cluster.chunks.told().frames;
    assert!(frames.len() < 500, "{frames:?}");
}

/// A master said that chunks have no bytes, and the writer divided by that; of chunks of less than a
/// record's header it took the header away.
#[tokio::test]
async fn a_chunk_size_that_no_cluster_has_is_no_session() {
    let (cluster, _client, _) = cluster().await;
    for chunk_size in [0, 100, 3 << 20, u32::MAX] {
        cluster.master.set_chunk_size(chunk_size);
        let client = cluster.client().await;
        let records = client.record_writer("/file", ordered()).await.err();
        let written = client.file_writer("/file", ordered()).await.err();
        for refused in [records, written] {
            let is_broken = matches!(refused, Some(Error::Protocol(_)));
            assert!(is_broken, "{chunk_size}: {refused:?}");
        }
    }
}

/// What was done and not answered is asked for again, and what was not is done, by the same id.
#[tokio::test]
async fn whatever_is_lost_a_record_is_appended_once() {
    for trouble in [
        Trouble::LoseAnswer,
        Trouble::LoseMutation,
        Trouble::LoseAnswerAndSeal,
        Trouble::LoseMutationAndSeal,
        Trouble::RefuseStream(Status::NotPrimary),
        Trouble::RefuseStream(Status::TicketExpired),
        Trouble::Refuse(Status::PromiseRefused),
        Trouble::Refuse(Status::Overloaded),
        Trouble::FallSilent,
    ] {
        let (cluster, client, file_id) = cluster().await;
        cluster.chunks.script(trouble);
        let mut writer = client.record_writer("/file", ordered()).await.unwrap();
        let mut receipts = Vec::new();
        for number in 0..20 {
            receipts.push(writer.append(&[number]).await.unwrap());
        }
        writer.flush().await.unwrap();
        let found = records(&cluster, file_id);
        let payloads: Vec<u8> = found.iter().map(|(_, payload)| payload[0]).collect();
        match trouble {
            // Those behind it in its frame were taken.
            Trouble::Refuse(_) => assert_eq!(payloads.len(), 20, "{trouble:?}"),
            _ => assert!(payloads.into_iter().eq(0..20), "{trouble:?}"),
        }
        for (number, receipt) in receipts.into_iter().enumerate() {
            let offset = receipt.await.unwrap().offset;
            let payload = u8::try_from(number).unwrap();
            assert!(found.contains(&(offset, vec![payload])), "{trouble:?}");
        }
        let told = cluster.chunks.told();
        let asks_a_holder = matches!(
            trouble,
            Trouble::LoseAnswerAndSeal | Trouble::LoseMutationAndSeal
        );
        assert_eq!(told.finds.len(), usize::from(asks_a_holder), "{trouble:?}");
        let mut ids: Vec<u64> = told.mutations.iter().map(|it| it.number).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 20, "no record has two ids, after {trouble:?}");
    }
}

#[tokio::test]
async fn whatever_is_lost_bytes_are_written_where_they_belong() {
    for trouble in [
        None,
        Some(Trouble::LoseAnswer),
        Some(Trouble::LoseMutation),
        Some(Trouble::LoseAnswerAndSeal),
        Some(Trouble::LoseMutationAndSeal),
        Some(Trouble::RefuseStream(Status::Moved)),
        Some(Trouble::Refuse(Status::Overloaded)),
    ] {
        let (cluster, client, file_id) = cluster().await;
        trouble.into_iter().for_each(|it| cluster.chunks.script(it));
        let mut model = vec![0; 2 * CHUNK_SIZE + 500];
        let writer = client.file_writer("/file", WriteOptions::default()).await;
        let mut writer = writer.unwrap();
        for (seed, (offset, len)) in [
            (7, 100_000),
            (CHUNK_SIZE - 10, 20),
            (0, 1),
            (500, 2 * CHUNK_SIZE),
        ]
        .into_iter()
        .enumerate()
        {
            let bytes = noise(len, seed as u64);
            model[offset..offset + len].copy_from_slice(&bytes);
            writer.write_at(offset as u64, bytes.into()).await.unwrap();
            writer.flush().await.unwrap();
        }
        let chunks = cluster.chunks.bytes(file_id);
        assert!(chunks.concat() == model, "{trouble:?}");
    }
}

#[tokio::test]
async fn a_chunk_that_has_left_its_file_leaves_its_records_untold() {
    let (cluster, client, _) = cluster().await;
    cluster.chunks.script(Trouble::LoseAnswerAndCut);
    let append = client.append("/file", b"one", WriteOptions::default());
    let error = append.await.unwrap_err();
    assert!(matches!(error, Error::ChunkGone), "{error}");
    let again = client.append("/file", b"two", WriteOptions::default());
    assert_eq!(again.await.unwrap().offset, 0);
}

#[tokio::test]
async fn an_id_that_was_used_for_other_bytes_is_refused_and_changes_nothing() {
    let (cluster, client, file_id) = cluster().await;
    let mut writer = client.record_writer("/file", ordered()).await.unwrap();
    writer.append(b"one").await.unwrap().await.unwrap();
    let first = cluster.chunks.told().mutations[0];
    let (session, number) = (first.session.0, first.number);
    cluster.chunks.use_id(file_id, session, number + 1);
    let two = writer.append(b"two").await.unwrap().await;
    let invalid = Status::InvalidArgument;
    assert!(
        matches!(&two, Err(Error::Refused { status, .. }) if *status == invalid),
        "{two:?}"
    );
    writer.append(b"three").await.unwrap().await.unwrap();
    let failed = writer.flush().await;
    assert!(matches!(failed, Err(Error::WritesFailed { failed: 1 })));
    let payloads = records(&cluster, file_id).into_iter().map(|it| it.1);
    assert!(payloads.eq([b"one".to_vec(), b"three".to_vec()]));
}

/// A write is refused with its stream, and what was beside it goes on.
#[tokio::test]
async fn a_write_that_is_refused_is_told_and_the_others_are_made() {
    let (cluster, client, file_id) = cluster().await;
    let refused = Status::LockTokenStale;
    cluster.chunks.script(Trouble::Refuse(refused));
    cluster.chunks.script(Trouble::Refuse(refused));
    let write = client.write_at("/file", 0, b"one", WriteOptions::default());
    let error = write.await.unwrap_err();
    assert!(
        matches!(&error, Error::Refused { status, .. } if *status == refused),
        "{error}"
    );
    cluster.chunks.script(Trouble::LoseMutation);
    let write = client.write_at("/file", 0, b"two", WriteOptions::default());
    let error = write.await.unwrap_err();
    assert!(matches!(&error, Error::Refused { .. }), "the second script");
    let write = client.write_at("/file", 0, b"two", WriteOptions::default());
    write.await.unwrap();
    assert_eq!(cluster.chunks.bytes(file_id), [b"two".to_vec()]);
}

#[tokio::test]
async fn what_became_of_every_byte_that_a_writer_was_given_is_told() {
    let (cluster, _, _) = cluster().await;
    let client = cluster.impatient_client().await;
    let writer = client.file_writer("/file", WriteOptions::default()).await;
    let mut writer = writer.unwrap();
    let mut told = Vec::new();
    let full = (Kind::OpenChunk, Status::NoSpace);
    let busy = (Kind::Locate, Status::Overloaded);
    let lost = Some(Trouble::LoseAnswer);
    for (len, index, refused, trouble) in [
        (10, 0, None, None),
        (20, 1, Some(full), None),
        (40, 0, Some(busy), lost),
        (80, 2, None, None),
    ] {
        cluster.master.always_refuse(refused);
        trouble.into_iter().for_each(|it| cluster.chunks.script(it));
        let offset = (index * CHUNK_SIZE) as u64;
        writer.write_at(offset, noise(len, 1).into()).await.unwrap();
        assert_eq!(writer.flush().await.is_ok(), refused.is_none());
        let sums = writer.sums();
        told.push((sums.before_failure, sums.written, sums.in_doubt));
    }
    assert_eq!(told, [(10, 10, 0), (10, 10, 0), (10, 10, 40), (10, 90, 40)]);
}

/// The second chunk could not be had, and the verb ended as if nothing had been written: "can't be written", with
/// the code for what can be tried again, while the first was there, or on its way.
#[tokio::test]
async fn a_range_that_was_written_in_part_is_told_to_be() {
    let (cluster, _, file_id) = cluster().await;
    let (_folder, key_file) = key_file(&key());
    let mut command = command(&cluster.address, &key_file);
    command.args(["--json", "--timeout", "300ms", "write", "--offset", "0"]);
    command.arg("/file").stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut write = command.spawn().unwrap();
    let mut stdin = write.stdin.take().unwrap();
    stdin.write_all(&noise(CHUNK_SIZE, 1)).await.unwrap();
    while cluster.chunks.told().mutations.is_empty() {
        tokio::task::yield_now().await;
    }
    let busy = (Kind::OpenChunk, Status::TooFewServers);
    cluster.master.always_refuse(Some(busy));
    stdin.write_all(&noise(CHUNK_SIZE, 2)).await.unwrap();
    drop(stdin);
    let output = write.wait_with_output().await.unwrap();
    let told: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(told["error"]["code"], "failed");
    assert_eq!(output.status.code(), Some(1));
    let message = told["error"]["message"].as_str().unwrap();
    let first = "only the first 1048576 bytes were surely written, up to byte 1048576: ";
    assert!(message.contains(first), "{message}");
    assert!(cluster.chunks.bytes(file_id) == [noise(CHUNK_SIZE, 1)]);
}

#[tokio::test]
async fn a_session_that_is_over_is_renewed_for_what_was_not_sent_and_for_nothing_else() {
    let (cluster, client, file_id) = cluster().await;
    let unknown = Slip::Refuse(Kind::OpenChunk, Status::SessionUnknown);
    cluster.master.slip(unknown);
    let append = client.append("/file", b"one", WriteOptions::default());
    append.await.unwrap();
    assert_eq!(cluster.master.asked().sessions, 2);
    // Its answer is lost, and the master has forgotten the session when it is asked for.
    cluster.chunks.script(Trouble::LoseAnswer);
    let mut writer = client.record_writer("/file", ordered()).await.unwrap();
    let two = writer.append(b"two").await.unwrap();
    while cluster.chunks.told().mutations.len() < 2 {
        tokio::task::yield_now().await;
    }
    cluster.master.slip(unknown);
    let error = two.await.unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");
    writer.append(b"three").await.unwrap().await.unwrap();
    assert_eq!(cluster.master.asked().sessions, 3);
    let payloads = records(&cluster, file_id).into_iter().map(|it| it.1);
    let all = [b"one".to_vec(), b"two".to_vec(), b"three".to_vec()];
    assert!(payloads.eq(all), "once");
}

#[tokio::test]
async fn a_chunk_that_was_sealed_at_rest_is_opened_again() {
    let (cluster, client, file_id) = cluster().await;
    let mut writer = client.record_writer("/file", ordered()).await.unwrap();
    writer.append(b"one").await.unwrap().await.unwrap();
    cluster.chunks.seal_all();
    drop(writer);
    let append = client.append("/file", b"two", WriteOptions::default());
    assert_eq!(append.await.unwrap().offset, HEADER_LEN as u64 + 3);
    assert_eq!(cluster.chunks.bytes(file_id).len(), 1);
    let opens = cluster.chunks.told().opens;
    assert!(opens.iter().all(|it| matches!(it.slot, Slot::Last { .. })));
    assert!(cluster.chunks.told().finds.is_empty());
}

#[tokio::test]
async fn what_can_not_be_is_told_before_anything_is_sent() {
    let (cluster, client, _) = cluster().await;
    let options = WriteOptions::default;
    let most = CHUNK_SIZE / 4 - HEADER_LEN;
    let long = noise(most + 1, 1);
    let too_large = client.append("/file", &long, options()).await.unwrap_err();
    assert!(
        matches!(too_large, Error::RecordTooLarge { bytes, bytes_max }
        if (bytes, bytes_max) == (most as u64 + 1, most as u64))
    );
    let end = 262_144 * CHUNK_SIZE as u64;
    for (offset, bytes) in [(end, end + 1), (u64::MAX, u64::MAX)] {
        let beyond = client.write_at("/file", offset, b"x", options()).await;
        let told = matches!(beyond, Err(Error::FileTooLong { bytes: it, .. }) if it == bytes);
        assert!(told, "{offset}");
    }
    for error in [
        client.append("/no", b"x", options()).await.unwrap_err(),
        client
            .write_at("/no", 0, b"x", options())
            .await
            .unwrap_err(),
        client.truncate("/no", 0).await.unwrap_err(),
    ] {
        assert!(matches!(error, Error::NoSuchFile), "{error}");
        assert_eq!(error.exit(), Exit::NotFound);
        assert!(error.hint().unwrap().contains("sarsen touch"));
    }
    let told = cluster.chunks.told();
    assert_eq!((told.opens.len(), told.streams), (0, 0));
}

#[tokio::test]
async fn a_cluster_that_can_not_write_is_waited_for_and_then_told() {
    let (cluster, _, _) = cluster().await;
    let client = cluster.impatient_client().await;
    for (status, exit) in [
        (Status::SafeMode, Exit::Unavailable),
        (Status::TooFewServers, Exit::Unavailable),
        (Status::Unavailable, Exit::Unavailable),
        (Status::ReadOnly, Exit::Unavailable),
        (Status::NoSpace, Exit::NoSpace),
        (Status::NotFound, Exit::NotFound),
    ] {
        cluster
            .master
            .always_refuse(Some((Kind::OpenChunk, status)));
        let append = client.append("/file", b"x", WriteOptions::default());
        let error = append.await.unwrap_err();
        assert_eq!(error.exit(), exit, "{status}: {error}");
    }
    assert!(cluster.chunks.told().mutations.is_empty());
    cluster.master.always_refuse(None);
    // A file that was sent to, and then nobody can be asked.
    cluster.chunks.script(Trouble::LoseAnswer);
    let refuse = Some((Kind::Locate, Status::Overloaded));
    cluster.master.always_refuse(refuse);
    let append = client.append("/file", b"x", WriteOptions::default());
    let error = append.await.unwrap_err();
    assert!(matches!(error, Error::WriteInDoubt { .. }), "{error}");
}
