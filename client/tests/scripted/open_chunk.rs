//! Reads of a file whose last chunk is open, and of one that changes meanwhile
//! (`spec/replication.md` section 12, `spec/records.md` section 3).

use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use sarsen_client::{Client, Error, GetOptions, GetTarget};
use sarsen_protocol::id::SessionId;
use sarsen_protocol::message::Kind;
use sarsen_protocol::record::Record;
use tokio::io::AsyncReadExt as _;

use crate::command::{command, key_file};
use crate::growing::{FRAME_LEN, Growing};
use crate::{CHUNK_SIZE, key, noise};

const PATIENCE: Duration = Duration::from_secs(60);

async fn start() -> (Arc<Growing>, Client) {
    let growing = Growing::start().await;
    let client = growing.client(PATIENCE).await;
    (growing, client)
}

/// To a pipe, whose bytes can't be taken back.
async fn get_to_pipe(client: &Client) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let target = GetTarget::Writer(&mut bytes);
    client.get("/file", target, GetOptions::default()).await?;
    Ok(bytes)
}

async fn get_to_file(client: &Client) -> Result<Vec<u8>, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("copy");
    let target = GetTarget::Path(path.clone());
    client.get("/file", target, GetOptions::default()).await?;
    Ok(std::fs::read(path).unwrap())
}

/// The log knows nothing of the open chunk but that it is there. Two members have not heard of the
/// last append, and are not to blame for that.
#[tokio::test]
async fn everything_that_was_acknowledged_is_read() {
    let (growing, _) = start().await;
    for len in [5, 100_000, 800_000] {
        growing.change(|state| {
            state.append(&noise(len, 1), &[2, 3]);
        });
        let bytes = growing.change(|state| state.bytes());
        // Each client begins with a member of its own choice.
        for _ in 0..6 {
            let client = growing.client(PATIENCE).await;
            assert!(get_to_pipe(&client).await.unwrap() == bytes, "{len}");
            assert!(get_to_file(&client).await.unwrap() == bytes, "{len}");
            let end = client.read_range("/file", bytes.len() as u64 - 3, 100);
            assert!(end.await.unwrap() == bytes[bytes.len() - 3..]);
            let size = client.exact_size("/file").await.unwrap();
            assert_eq!(size, Some(bytes.len() as u64));
        }
    }
    let kinds = growing.change(|state| state.kinds.clone());
    assert!(!kinds.contains(&Kind::ReportReplica), "nobody is bad");
}

/// More chunks than are located at once, and the file was cut when those of the first page were: the
/// places that were gone came as zeros, up to the size of before, and the download ended well.
#[tokio::test]
async fn a_file_that_was_cut_between_two_pages_is_given_up() {
    for (chunks, len, index) in [(100, 2, 100), (256, 2, 256), (257, 2, 257), (258, 1, 257)] {
        let (growing, client) = start().await;
        growing.change(|state| {
            state.append(b"xy", &[]);
            for _ in 1..258 {
                state.go_on();
                state.append(b"xy", &[]);
            }
        });
        for is_cut in [false, true] {
            // The first page and the last are looked at for the file's size.
            growing.before_locate(|_| {});
            growing.before_locate(|_| {});
            growing.before_locate(move |state| {
                if is_cut {
                    state.cut(chunks, len);
                }
            });
            let mut options = GetOptions::default();
            options.offset = 255 * CHUNK_SIZE as u64;
            let mut bytes = Vec::new();
            let target = GetTarget::Writer(&mut bytes);
            let got = client.get("/file", target, options).await;
            match (is_cut, got) {
                (false, Ok(_)) => assert_eq!(bytes.len(), 2 * CHUNK_SIZE + 2),
                (true, Err(Error::Changed { index: told })) => assert_eq!(told, index),
                (_, got) => panic!("{chunks} chunks: {got:?}"),
            }
        }
    }
}

#[tokio::test]
async fn an_empty_chunk_is_an_empty_file() {
    let (_growing, client) = start().await;
    assert!(get_to_pipe(&client).await.unwrap().is_empty());
    assert_eq!(client.exact_size("/file").await.unwrap(), Some(0));
    assert!(
        client
            .records("/file")
            .await
            .unwrap()
            .next()
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn a_read_goes_on_when_the_chunk_is_sealed_or_changes_its_members() {
    let changes: [fn(&mut crate::growing::State); 3] = [
        |state| state.seal(),
        |state| state.change_members(3),
        |state| {
            state.change_members(2);
            state.append(b"more", &[]);
            state.seal();
        },
    ];
    for change in changes {
        let (growing, client) = start().await;
        growing.change(|state| state.append(&noise(900_000, 3), &[]));
        let bytes = growing.change(|state| state.bytes());
        growing.in_a_read(change);
        assert!(get_to_pipe(&client).await.unwrap() == bytes);
        growing.change(|state| {
            if state.chunks[0].is_sealed {
                state.chunks[0].is_sealed = false;
                state.chunks[0].version += 10;
            }
        });
        let bytes = growing.change(|state| state.bytes());
        growing.in_a_read(change);
        assert!(get_to_file(&client).await.unwrap() == bytes);
    }
}

/// A member died in the middle of a long read, and somebody wrote over the place up to where it had come: the
/// rest came from the newer state, and with it half of that write.
#[tokio::test]
async fn a_long_read_into_memory_is_of_one_state_of_a_chunk() {
    for is_opened in [true, false] {
        let (growing, client) = start().await;
        growing.change(|state| {
            state.append(b"short", &[]);
            state.go_on();
            state.append(&noise(900_000, 3), &[]);
        });
        growing.in_a_read(|state| state.write_over(FRAME_LEN - 50, &[7; 100]));
        let length = 3 * CHUNK_SIZE as u64;
        let read = match is_opened {
            true => {
                let file = client.open("/file").await.unwrap();
                file.read_at(0, length).await.unwrap()
            }
            false => client.read_range("/file", 0, length).await.unwrap(),
        };
        assert!(read == growing.change(|state| state.bytes()), "{is_opened}");
    }
}

/// A sealed file is downloaded, and somebody appends to it meanwhile.
#[tokio::test]
async fn a_sealed_chunk_that_is_opened_is_read_on() {
    let (growing, client) = start().await;
    growing.change(|state| {
        state.append(&noise(900_000, 3), &[]);
        state.seal();
    });
    let bytes = growing.change(|state| state.bytes());
    let reopen = |state: &mut crate::growing::State| {
        state.chunks[0].is_sealed = false;
        state.chunks[0].version += 10;
        state.append(b"more", &[]);
    };
    growing.in_a_read(reopen);
    assert!(get_to_pipe(&client).await.unwrap() == bytes);
    growing.change(|state| state.seal());
    let bytes = growing.change(|state| state.bytes());
    growing.in_a_read(reopen);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("copy");
    let target = GetTarget::Path(path.clone());
    let report = client.get("/file", target, GetOptions::default()).await;
    assert!(std::fs::read(path).unwrap() == bytes);
    assert_eq!(report.unwrap().crc32, None, "of no one state of the file");
}

#[tokio::test]
async fn a_chunk_that_was_cut_meanwhile_is_not_made_longer_again() {
    let (growing, client) = start().await;
    growing.change(|state| state.append(&noise(900_000, 3), &[]));
    growing.in_a_read(|state| state.truncate(10));
    let error = get_to_pipe(&client).await.unwrap_err();
    assert!(matches!(error, Error::Changed { index: 0 }), "{error}");
}

/// Nobody has the lease at first, and then another server; or the chunk is sealed before anybody
/// has it.
#[tokio::test]
async fn the_newest_state_is_waited_for() {
    let (growing, client) = start().await;
    growing.change(|state| {
        state.append(b"first", &[]);
        state.primary = 0;
    });
    growing.before_locate(|_| {});
    growing.before_locate(|state| state.change_members(3));
    assert_eq!(get_to_pipe(&client).await.unwrap(), b"first");
    growing.change(|state| state.append(b"second", &[1, 2]));
    growing.before_locate(|state| state.primary = 0);
    growing.before_locate(|state| state.seal());
    assert_eq!(get_to_pipe(&client).await.unwrap(), b"firstsecond");
    let impatient = growing.client(Duration::from_millis(300)).await;
    growing.change(|state| {
        state.go_on();
        state.primary = 0;
    });
    assert_eq!(impatient.exact_size("/file").await.unwrap(), None);
    let error = get_to_pipe(&impatient).await.unwrap_err();
    assert!(
        matches!(error, Error::NoReplica { index: 1, .. }),
        "{error}"
    );
}

/// What a read showed once no later read may lack, whichever member answers.
#[tokio::test]
async fn a_client_never_goes_back_in_time() {
    let (growing, client) = start().await;
    growing.change(|state| state.append(b"first", &[]));
    let file = client.open("/file").await.unwrap();
    growing.change(|state| state.append(b"second", &[2, 3]));
    // The newest state is seen by one way of reading, and asked for by the other.
    assert_eq!(
        client.read_range("/file", 0, 100).await.unwrap(),
        b"firstsecond"
    );
    growing.change(|state| state.kinds.clear());
    for _ in 0..6 {
        assert_eq!(file.read_at(0, 5).await.unwrap(), b"first");
    }
    let kinds = growing.change(|state| state.kinds.clone());
    assert!(
        !kinds.contains(&Kind::Newest),
        "by what was seen: {kinds:?}"
    );
    // Its location is of before the chunk was sealed and opened by an ack that the client saw.
    growing.change(|state| {
        state.change_members(1);
        state.append(b"third", &[]);
    });
    assert_eq!(
        client.read_range("/file", 0, 100).await.unwrap(),
        b"firstsecondthird"
    );
    assert_eq!(file.read_at(0, 5).await.unwrap(), b"first");
}

fn record(number: u64, len: usize) -> Vec<u8> {
    let payload = noise(len, number);
    let record = Record {
        session: SessionId(7),
        number,
        payload: &payload,
    };
    [&record.header().unwrap()[..], &payload].concat()
}

/// Reads what there is, and says where each record began.
async fn offsets(reader: &mut sarsen_client::RecordReader) -> Vec<(u64, u64)> {
    let mut offsets = Vec::new();
    while let Some(record) = reader.next().await.unwrap() {
        assert_eq!(record.session, SessionId(7));
        assert!(record.payload == noise(record.payload.len(), record.number));
        offsets.push((record.number, record.offset));
    }
    offsets
}

#[tokio::test]
async fn records_are_followed_from_chunk_to_chunk() {
    let (growing, client) = start().await;
    growing.change(|state| state.append(&record(1, 200_000), &[]));
    let mut reader = client.follow_records("/file").await.unwrap();
    assert_eq!(offsets(&mut reader).await, [(1, 0)]);
    growing.change(|state| {
        state.append(&record(2, 10), &[1]);
        state.append(&record(3, 10), &[1, 2, 3]);
    });
    reader.wait().await.unwrap();
    // The third is committed, and no member knows that yet.
    assert_eq!(offsets(&mut reader).await, [(2, 200_032)]);
    growing.change(|state| {
        state.go_on();
        state.append(&record(4, 300_000), &[]);
    });
    let mut seen = Vec::new();
    while seen.len() < 2 {
        reader.wait().await.unwrap();
        seen.extend(offsets(&mut reader).await);
    }
    assert_eq!(seen, [(3, 200_074), (4, CHUNK_SIZE as u64)]);
    assert_eq!(reader.leftover(), 0);
    // Sealed because it was idle, and opened again.
    growing.change(|state| state.seal());
    growing.change(|state| {
        state.chunks[1].is_sealed = false;
        state.chunks[1].version += 10;
        state.append(&record(5, 10), &[]);
    });
    let mut seen = Vec::new();
    while seen.is_empty() {
        reader.wait().await.unwrap();
        seen.extend(offsets(&mut reader).await);
    }
    assert_eq!(seen, [(5, CHUNK_SIZE as u64 + 300_032)]);
    let mut again = client.records("/file").await.unwrap();
    let all: Vec<u64> = offsets(&mut again).await.iter().map(|it| it.0).collect();
    assert_eq!(all, [1, 2, 3, 4, 5]);
}

/// Somebody wrote into the slot behind a chunk that others still appended to: a follower went on there, and what
/// the chunk before got later was shown as the zeros that it had been.
#[tokio::test]
async fn a_follower_stays_in_a_chunk_that_is_open_whatever_lies_behind_it() {
    let (growing, client) = start().await;
    growing.change(|state| state.append(&record(1, 10), &[]));
    let mut file = client.follow("/file").await.unwrap();
    let mut reader = client.follow_records("/file").await.unwrap();
    assert_eq!(offsets(&mut reader).await, [(1, 0)]);
    file.seek(file.end());
    growing.change(|state| {
        state.write_behind(&record(3, 10));
        state.kinds.clear();
    });
    let locates = |state: &mut crate::growing::State| {
        let locates = state.kinds.iter().filter(|&&it| it == Kind::Locate);
        locates.count()
    };
    // The master has said what lies behind by then.
    while growing.change(locates) == 0 {
        assert!(!file.look().await.unwrap());
    }
    growing.change(|state| state.append_to(0, &record(2, 10), &[]));
    while !file.look().await.unwrap() {}
    assert_eq!(file.end(), 84);
    assert!(file.read().await.unwrap() == record(2, 10));
    reader.wait().await.unwrap();
    assert_eq!(offsets(&mut reader).await, [(2, 42)]);
    growing.change(|state| state.seal_at(0));
    let mut seen = Vec::new();
    while seen.is_empty() {
        reader.wait().await.unwrap();
        seen.extend(offsets(&mut reader).await);
    }
    assert_eq!(seen, [(3, CHUNK_SIZE as u64)]);
    while !file.look().await.unwrap() {}
    assert_eq!(file.end(), CHUNK_SIZE as u64 + 42);
    let padding = vec![0; CHUNK_SIZE - 84];
    assert!(file.read().await.unwrap() == [padding, record(3, 10)].concat());
}

/// The chunk that a follower was in was cut away, and the file was short and open again: when it had grown
/// past his place, he went on in the middle of what was new.
#[tokio::test]
async fn a_follower_whose_chunk_was_cut_away_is_told() {
    for left in [0, 1] {
        let (growing, client) = start().await;
        growing.change(|state| {
            state.go_on();
            state.append(b"before", &[]);
            state.go_on();
            state.append(b"read", &[]);
        });
        let mut file = client.follow("/file").await.unwrap();
        assert_eq!(file.end(), 2 * CHUNK_SIZE as u64 + 4);
        file.seek(file.end());
        growing.change(|state| {
            state.chunks.truncate(left);
            state.go_on();
            state.append(b"anew", &[]);
        });
        let error = file.look().await.unwrap_err();
        assert!(matches!(error, Error::Changed { index: 2 }), "{error}");
    }
}

async fn run(growing: &Growing, args: &[&str]) -> Output {
    let (_folder, key_file) = key_file(&key());
    let output = command(&growing.address, &key_file).args(args).output();
    output.await.unwrap()
}

fn json(output: &Output) -> serde_json::Value {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{text}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn the_verbs_show_an_open_file() {
    let (growing, _) = start().await;
    let first = record(1, 10);
    growing.change(|state| state.append(&[&first[..], b"tail\n"].concat(), &[2]));
    let stat = json(&run(&growing, &["--json", "stat", "/file"]).await);
    assert_eq!((&stat["size"], &stat["exact"]), (&47.into(), &true.into()));
    assert_eq!(stat["crc32"], serde_json::Value::Null);
    let located = json(&run(&growing, &["--json", "locate", "/file"]).await);
    assert_eq!(located["chunks"][0]["state"], "open");
    assert_eq!(located["chunks"][0]["replicas"][0]["primary"], true);
    let records = json(&run(&growing, &["--json", "records", "/file"]).await);
    let expected = serde_json::json!({
        "offset": 0, "length": 10, "id": "7:1", "data": base64(&noise(10, 1)),
    });
    assert_eq!(records, expected);
    let text = run(&growing, &["records", "/file"]).await;
    assert_eq!(text.stdout, [&noise(10, 1)[..], b"\n"].concat());
    assert!(String::from_utf8_lossy(&text.stderr).contains("5 bytes"));
    assert_eq!(
        run(&growing, &["tail", "-c", "5", "/file"]).await.stdout,
        b"tail\n"
    );
    let cat = run(&growing, &["cat", "--offset", "42", "/file"]).await;
    assert_eq!(cat.stdout, b"tail\n");
    growing.change(|state| state.primary = 0);
    let stat = run(&growing, &["--json", "--timeout", "300ms", "stat", "/file"]).await;
    assert_eq!(
        (&json(&stat)["size"], &json(&stat)["exact"]),
        (&0.into(), &false.into())
    );
    let sum = json(&run(&growing, &["--json", "checksum", "/file"]).await);
    let bytes = growing.change(|state| state.bytes());
    let crc = sarsen_protocol::crc::crc32(&bytes);
    assert_eq!(sum["crc32"], format!("{crc:08x}"));
    let stat = json(&run(&growing, &["--json", "stat", "/file"]).await);
    assert_eq!(
        (&stat["size"], &stat["exact"]),
        (&47.into(), &serde_json::Value::Null)
    );
}

/// Ten bytes are thirteen digits and a pad; the verb's own test has the RFC's vectors.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits: String = bytes.iter().map(|byte| format!("{byte:08b}")).collect();
    let bits = format!("{bits:0<width$}", width = bits.len().next_multiple_of(6));
    let digit = |at: usize| usize::from_str_radix(&bits[at..at + 6], 2).unwrap();
    let digits = (0..bits.len())
        .step_by(6)
        .map(|at| char::from(DIGITS[digit(at)]));
    let text: String = digits.collect();
    format!("{text:=<width$}", width = text.len().next_multiple_of(4))
}

#[tokio::test]
async fn tail_follows_over_chunks_and_ends_with_its_reader() {
    let (growing, _) = start().await;
    growing.change(|state| state.append(b"before\n", &[]));
    let (_folder, key_file) = key_file(&key());
    let mut tail = command(&growing.address, &key_file)
        .args(["tail", "-f", "/file"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = tail.stdout.take().unwrap();
    let mut shown = vec![0; 7];
    stdout.read_exact(&mut shown).await.unwrap();
    growing.change(|state| state.append(b"after\n", &[1, 2]));
    growing.change(|state| state.go_on());
    growing.change(|state| state.append(b"next", &[]));
    let bytes = growing.change(|state| state.bytes());
    shown.resize(bytes.len(), 0);
    stdout.read_exact(&mut shown[7..]).await.unwrap();
    assert!(shown == bytes);
    drop(stdout);
    let ended = tokio::time::timeout(PATIENCE, tail.wait()).await.unwrap();
    assert_eq!(ended.unwrap().code(), Some(0), "quietly");
}
