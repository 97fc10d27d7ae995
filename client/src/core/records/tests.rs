use super::*;
use crate::core::retry::split_mix;
use sarsen_protocol::record::Record;

/// What is yielded: offset, id and payload.
type Yielded = (u64, (u64, u64), Vec<u8>);

struct Random(u64);

impl Random {
    fn draw(&mut self, below: u64) -> u64 {
        self.0 = split_mix(self.0);
        self.0 % below
    }

    fn len(&mut self, below: u64) -> usize {
        usize::try_from(self.draw(below)).unwrap()
    }
}

fn record(session: u64, number: u64, payload: &[u8]) -> Vec<u8> {
    let session = SessionId(session);
    let record = Record {
        session,
        number,
        payload,
    };
    [&record.header().unwrap()[..], payload].concat()
}

/// A record whose CRC begins with a zero byte, as one in 256 does.
fn record_behind_zeros(random: &mut Random) -> Vec<u8> {
    loop {
        let bytes = record(
            9,
            1 + random.draw(1 << 40),
            b"a CRC that begins with a zero",
        );
        if bytes[0] == 0 {
            return bytes;
        }
    }
}

/// The page, word by word, over a file that is all in memory.
fn by_the_page(file: &[u8]) -> (Vec<Yielded>, u64) {
    let (mut yielded, mut leftover) = (Vec::new(), 0);
    let mut seen = std::collections::BTreeSet::new();
    let mut at = 0;
    let non_zeros = |bytes: &[u8]| bytes.iter().filter(|&&byte| byte != 0).count() as u64;
    while file.len() - at >= 32 {
        if let Ok(record) = decode(&file[at..]) {
            let id = (record.session.0, record.number);
            if seen.insert(id) {
                yielded.push((at as u64, id, record.payload.to_vec()));
            }
            at += record.encoded_len();
            continue;
        }
        let is_magic = |&at: &usize| file.get(at + 4..at + 8) == Some(&RECORD_MAGIC);
        let next = (at + 1..file.len()).find(is_magic).unwrap_or(file.len());
        leftover += non_zeros(&file[at..next]);
        at = next;
    }
    (yielded, leftover + non_zeros(&file[at..]))
}

/// Some bytes for a file, and whether they are zeros that nobody stored.
fn part(random: &mut Random) -> (Vec<u8>, bool) {
    let payload = |random: &mut Random| {
        let mut payload: Vec<u8> = (0..random.draw(200)).map(|n| (n % 251) as u8).collect();
        if random.draw(4) == 0 {
            payload.splice(..0, *b"....SREC");
        }
        payload
    };
    let bytes = match random.draw(9) {
        0..=2 => {
            let payload = payload(random);
            record(1 + random.draw(3), 1 + random.draw(40), &payload)
        }
        3 => record_behind_zeros(random),
        4 => (0..random.draw(80)).map(|_| b'x').collect(),
        5 => {
            // Half of a record, or one that was written over.
            let payload = payload(random);
            let mut bytes = record(7, 1 + random.draw(1000), &payload);
            let place = random.len(bytes.len() as u64);
            if random.draw(2) == 0 {
                bytes.truncate(place);
            } else {
                bytes[place] ^= 0x40;
            }
            bytes
        }
        6 => b"SRECSREC"[..random.len(9)].to_vec(),
        7 => vec![0; random.len(300)],
        _ => return (vec![0; random.len(5000)], true),
    };
    (bytes, false)
}

/// Reads a file whose holes are known, with bytes handed over in parts of random lengths.
fn read(
    records: &mut Records,
    file: &[u8],
    holes: &[Range<u64>],
    random: &mut Random,
) -> Vec<Yielded> {
    let mut yielded = Vec::new();
    loop {
        match records.poll() {
            Step::Need { at, len } => {
                assert!(len > 0 && at + len <= file.len() as u64, "{at} {len}");
                let hole = holes.iter().find(|hole| hole.contains(&at));
                if let Some(hole) = hole {
                    records.handle_hole(hole.end);
                    continue;
                }
                let next_hole = holes
                    .iter()
                    .map(|hole| hole.start)
                    .filter(|&start| start > at);
                let end = next_hole.min().unwrap_or(file.len() as u64);
                let len = (1 + random.draw(700)).min(end - at);
                let range = usize::try_from(at).unwrap()..usize::try_from(at + len).unwrap();
                records.handle_bytes(&file[range]);
            }
            Step::Record(found) => {
                let payload = records.payload(&found).to_vec();
                yielded.push((found.offset, (found.session.0, found.number), payload));
            }
            Step::Wait | Step::End => return yielded,
        }
    }
}

#[test]
fn any_file_gives_what_the_page_says_however_its_bytes_come() {
    for seed in 0..2000 {
        let mut random = Random(seed);
        let (mut file, mut holes) = (Vec::new(), Vec::new());
        for _ in 0..random.draw(30) {
            let (bytes, is_hole) = part(&mut random);
            let start = file.len() as u64;
            file.extend(bytes);
            if is_hole {
                holes.push(start..file.len() as u64);
            }
        }
        let mut records = Records::new(0, false);
        records.handle_end(file.len() as u64, None);
        let yielded = read(&mut records, &file, &holes, &mut random);
        assert_eq!(
            (yielded, records.leftover()),
            by_the_page(&file),
            "seed {seed}"
        );
    }
}

/// A follower yields what is there by now, nothing twice, and in the end what a reader of the whole
/// file yields.
#[test]
fn a_file_that_grows_is_followed() {
    for seed in 0..500 {
        let mut random = Random(seed);
        let (mut file, mut yielded) = (Vec::new(), Vec::new());
        let mut records = Records::new(0, true);
        for number in 1..=1 + random.draw(40) {
            match random.draw(5) {
                0 => file.extend((0..random.draw(60)).map(|_| b'x')),
                1 => file.resize(file.len() + random.len(100), 0),
                _ => {}
            }
            let payload = vec![b'r'; random.len(300)];
            file.extend(record(4, number, &payload));
            if random.draw(3) == 0 {
                records.handle_end(file.len() as u64, Some(0));
                yielded.extend(read(&mut records, &file, &[], &mut random));
                assert_eq!(records.poll(), Step::Wait);
                assert_eq!(
                    yielded,
                    by_the_page(&file).0,
                    "seed {seed}: all that is there"
                );
            }
        }
        records.handle_end(file.len() as u64, Some(0));
        yielded.extend(read(&mut records, &file, &[], &mut random));
        assert_eq!(yielded, by_the_page(&file).0, "seed {seed}");
    }
}

/// By the page as it was first, zeros were passed over before a record was looked for, and with
/// them the first byte of one record in 256.
#[test]
fn a_record_may_begin_with_a_zero() {
    let mut random = Random(1);
    let file = [vec![0; 100], record_behind_zeros(&mut random)].concat();
    for holes in [None, Some(0..100), Some(0..90)] {
        let holes: Vec<_> = holes.into_iter().collect();
        let mut records = Records::new(0, false);
        records.handle_end(file.len() as u64, None);
        let yielded = read(&mut records, &file, &holes, &mut random);
        assert_eq!(yielded[0].0, 100);
        assert_eq!(records.leftover(), 0);
    }
}

/// A hole that reaches to the end of the longest file costs two steps.
#[test]
fn holes_are_not_walked_through() {
    let end = 262_144 * (64 << 20);
    let mut records = Records::new(0, false);
    records.handle_end(end, None);
    let mut steps = 0;
    while let Step::Need { .. } = records.poll() {
        records.handle_hole(end - 100);
        records.handle_bytes(&[0; 104]);
        steps += 1;
    }
    assert!(steps <= 3, "{steps}");
    assert_eq!(records.poll(), Step::End);
}

/// What was written at an offset may look like the beginning of a record that never comes.
#[test]
fn a_header_without_its_payload_waits_only_where_it_may_come() {
    let half = &record(1, 1, &[b'p'; 500])[..100];
    let file = [half, &record(1, 2, b"behind")].concat();
    let len = file.len() as u64;
    let mut random = Random(1);
    let mut records = Records::new(0, true);
    records.handle_end(len, Some(0));
    assert_eq!(read(&mut records, &file, &[], &mut random), []);
    assert_eq!(records.poll(), Step::Wait, "the chunk is open");
    records.handle_end(len, Some(len));
    let yielded = read(&mut records, &file, &[], &mut random);
    assert_eq!(
        yielded,
        [(100, (1, 2), b"behind".to_vec())],
        "another follows"
    );
    let mut records = Records::new(0, false);
    records.handle_end(len, None);
    assert_eq!(read(&mut records, &file, &[], &mut random), yielded);
    assert_eq!(
        records.leftover(),
        half.iter().filter(|&&it| it != 0).count() as u64
    );
}

#[test]
fn numbers_are_kept_as_ranges() {
    let mut ids = Ids::default();
    let session = SessionId(3);
    for number in [5, 1, 3, 4, 2, u64::MAX, 7] {
        assert!(ids.insert(session, number), "{number}");
        assert!(!ids.insert(session, number), "{number}");
    }
    assert!(ids.insert(SessionId(4), 5), "of another session");
    let ranges: Vec<_> = ids.sessions[&session].clone().into_iter().collect();
    assert_eq!(ranges, [(1, 5), (7, 7), (u64::MAX, u64::MAX)]);
}
