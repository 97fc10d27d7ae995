//! Registration, what outlives a restart, and the end.

use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;

use sarsen_protocol::id::{Epoch, ServerId};
use sarsen_protocol::message::DiskState;
use sarsen_protocol::status::Status;

use crate::master::{EPOCH, Master, SERVER};
use crate::process::{Process, command};

fn start(master: &Master) -> Process {
    Process::spawn(command(
        &master.address(),
        &master.key_file(),
        &master.dir(),
    ))
}

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("connects");
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    )
    .expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

#[test]
fn it_registers_says_so_beats_and_drains() {
    let mut master = Master::start();
    let mut process = start(&master);
    let register = master.register();
    assert_eq!(register.server_id, ServerId::NONE, "the first time");
    assert_eq!(register.directories.len(), 1);
    let ready = process.ready();
    let addresses = [
        &register.control_addr,
        &register.data_addr,
        &register.http_addr,
    ];
    for ((name, told), (expected, registered)) in ready
        .iter()
        .zip(["control", "data", "http"].iter().zip(addresses))
    {
        assert_eq!((name.as_str(), told), (*expected, registered));
    }
    let beats = |master: &Master| {
        let heartbeat = master.heartbeat.as_ref()?;
        (heartbeat.sequence >= 3).then(|| heartbeat.clone())
    };
    let heartbeat = master.until(beats);
    assert_eq!(heartbeat.server_id, SERVER);
    assert_eq!(heartbeat.disks[0].disk.state, DiskState::Ok);
    assert!(heartbeat.disks[0].disk.path.starts_with('/'));

    assert!(get(&register.http_addr, "/health/ready").contains("200 OK"));
    assert!(get(&register.http_addr, "/metrics").contains("sarsen_chunkd_bytes_in_total 0"));
    assert_eq!(process.terminate(), (Some(0), String::new()));
    master.expect_closed();
}

/// The mark made a server's open chunks useless without a word: who ran it learned from the master
/// that a disk had failed, and nothing told which file, nor what to do.
#[test]
fn a_directory_with_a_damaged_journal_says_why_and_what_to_do() {
    let mut master = Master::start();
    let mut process = start(&master);
    master.register();
    process.ready();
    process.terminate();
    let journal = master.dir().join("journal");
    std::fs::create_dir_all(&journal).expect("made");
    let segment = journal.join("0000000000000001.journal");
    std::fs::write(&segment, [7; 8192]).expect("written");
    let log = master.key_file().with_file_name("log");
    // The mark that the first start leaves stays when the damage is gone.
    for (why, is_damaged) in [
        (
            "journal/0000000000000001.journal is damaged at byte 0",
            true,
        ),
        ("an earlier start marked it", false),
    ] {
        if !is_damaged {
            std::fs::remove_file(&segment).expect("removed");
        }
        let command = command(&master.address(), &master.key_file(), &master.dir());
        let mut process = Process::spawn_logged(command, &log);
        master.register();
        process.ready();
        process.terminate();
        let log = std::fs::read_to_string(&log).expect("a log");
        let mut lines = log.lines();
        let line = lines.find(|line| line.contains("A DIRECTORY IS POISONED"));
        let line = line.expect("it is told");
        for word in [why, "Check the disk", "give --dir an empty folder"] {
            assert!(line.contains(word), "{word}: {line}");
        }
    }
}

#[test]
fn it_comes_back_with_its_id_a_higher_start_and_the_epoch_that_it_obeyed() {
    let mut master = Master::start();
    let mut process = start(&master);
    let first = master.register();
    process.ready();
    process.terminate();
    let mut process = start(&master);
    let second = master.register();
    process.ready();
    assert_eq!((second.server_id, second.epoch), (SERVER, EPOCH));
    let (old, new) = (&first.directories[0], &second.directories[0]);
    assert_eq!(new.directory_id, old.directory_id);
    assert_eq!(new.start_number.0, old.start_number.0 + 1);
    assert_ne!(new.start_nonce, old.start_nonce);

    // A reconnect is not a start.
    master.hang_up();
    let third = master.register();
    assert_eq!(third.directories[0].start_number, new.start_number);
    assert_eq!(third.directories[0].start_nonce, new.start_nonce);
}

#[test]
fn a_master_of_an_older_epoch_is_not_obeyed() {
    let mut master = Master::start();
    let mut process = start(&master);
    master.register();
    process.ready();
    master.hang_up();
    let (id, register) = master.expect_register();
    let older = Epoch {
        number: EPOCH.number - 1,
        incarnation: 1,
    };
    master.welcome(id, &register, older, Status::Ok);
    master.expect_closed();
    let (id, register) = master.expect_register();
    let forked = Epoch {
        number: EPOCH.number,
        incarnation: 1,
    };
    master.welcome(id, &register, forked, Status::Ok);
    master.expect_closed();
    master.register();
}

/// One disk that could not be opened ended the whole server, with all its other directories.
#[test]
fn it_goes_on_without_a_directory_that_has_rotted() {
    let mut master = Master::start();
    let rotten = master.dir().with_extension("rotten");
    std::fs::create_dir(&rotten).expect("made");
    std::fs::write(rotten.join("IDENTITY"), [1; 256]).expect("written");
    let mut command = command(&master.address(), &master.key_file(), &rotten);
    command.arg("--dir").arg(master.dir());
    let mut process = Process::spawn(command);
    let register = master.register();
    process.ready();
    let [directory] = &*register.directories else {
        panic!("{:?}", register.directories)
    };
    assert_eq!(directory.disk.path, master.dir().display().to_string());
    assert_eq!(std::fs::read_dir(&rotten).expect("listed").count(), 1);
    assert_eq!(process.terminate(), (Some(0), String::new()));
}

/// A signal killed it until its directories were open, and whoever had started it took that for a failure.
#[test]
fn a_start_that_is_told_to_end_is_no_failure() {
    let master = Master::start();
    let place = tempfile::tempdir().expect("a temporary folder");
    let config = place.path().join("config");
    let made = Command::new("mkfifo").arg(&config).status();
    assert!(made.expect("mkfifo").success());
    let mut command = command(&master.address(), &master.key_file(), &master.dir());
    command.arg("--config").arg(&config);
    let mut process = Process::spawn(command);
    // Opened when the other side is, too; then it waits for what never comes.
    let _config = OpenOptions::new()
        .write(true)
        .open(&config)
        .expect("a pipe");
    assert_eq!(process.terminate(), (Some(0), String::new()));
}
