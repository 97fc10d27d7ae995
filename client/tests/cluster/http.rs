//! What the daemons' HTTP ports tell.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::Value;

use crate::harness::Cluster;

/// The status line and the body of an answer.
pub(crate) fn ask(port: &str, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(port).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {port}\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.lines().next().unwrap_or_default().to_owned();
    (status, body.to_owned())
}

#[test]
fn health_metrics_and_the_state_of_the_cluster() {
    let cluster = Cluster::start(2);
    cluster.put(b"bytes", "/file");
    let master = &cluster.master.as_ref().unwrap().http;
    let chunkserver = &cluster.chunkservers[0].as_ref().unwrap().http;
    for port in [master, chunkserver] {
        assert!(ask(port, "/health/live").0.contains(" 200 "));
        assert!(ask(port, "/health/ready").0.contains(" 200 "));
        let (status, metrics) = ask(port, "/metrics");
        assert!(status.contains(" 200 "));
        assert!(metrics.contains("# TYPE sarsen_"), "{metrics}");
    }
    assert!(ask(master, "/").1.contains("<h1>Sarsen</h1>"));

    let json = |path: &str| -> Value { serde_json::from_str(&ask(master, path).1).unwrap() };
    assert_eq!(
        json("/api/v1/report")["servers"].as_array().map(Vec::len),
        Some(2)
    );
    cluster.until_healthy();
    assert_eq!(json("/api/v1/fsck")["healthy"], true);
    // The same documents as on the command line.
    let stat = cluster.sarsen(&["--json", "stat", "/file"]).json();
    assert_eq!(json("/api/v1/stat?path=/file"), stat);
    assert_eq!(
        json("/api/v1/ls?path=/"),
        cluster.sarsen(&["--json", "ls", "/"]).json()
    );

    // Whoever only asks the log knows no better.
    let record = cluster.local("record", b"a record");
    let record = record.to_str().unwrap();
    assert_eq!(cluster.sarsen(&["append", "/file", record]).code, Some(0));
    assert_eq!(json("/api/v1/stat?path=/file")["exact"], false);
    assert_eq!(stat.get("exact"), None);

    let (status, body) = ask(master, "/api/v1/stat?path=/no");
    assert!(status.contains(" 404 "), "{status}");
    assert!(body.contains("\"not_found\""));
}
