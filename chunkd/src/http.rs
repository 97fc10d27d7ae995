//! The HTTP port: `/metrics`, `/health/live`, `/health/ready`. No chunk is served here.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::serve::Listener;
use rustix::time::{ClockId, clock_gettime};
use sarsen_edge::guest::{Guest, Guests};
use tokio::net::TcpListener;

use crate::io::Mode;
use crate::net::Chunkserver;

/// What the port shows.
#[derive(Clone, Debug)]
pub struct HttpState {
    /// Whose numbers.
    pub chunkserver: Arc<Chunkserver>,
    /// How its data plane moves bytes.
    pub mode: Mode,
    /// Whether it is registered and not draining.
    pub is_ready: Arc<AtomicBool>,
}

/// Serves the port for as long as the program runs.
pub async fn serve(listener: TcpListener, state: HttpState) {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/health/live", get(|| async { "live\n" }))
        .route("/health/ready", get(ready))
        .with_state(state);
    if let Err(error) = axum::serve(Port(Guests::new(listener)), router).await {
        tracing::error!(%error, "the HTTP port serves no more");
    }
}

/// The port, with few guests at a time.
struct Port(Guests);

impl Listener for Port {
    type Io = Guest;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Guest, SocketAddr) {
        self.0.accept().await
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

async fn ready(State(state): State<HttpState>) -> impl IntoResponse {
    match state.is_ready.load(Ordering::Relaxed) {
        true => (StatusCode::OK, "ready\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not registered\n"),
    }
}

async fn metrics(State(state): State<HttpState>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text(&state))
}

/// All numbers in the text format of Prometheus.
fn text(state: &HttpState) -> String {
    let counters = &state.chunkserver.counters;
    let mut out = String::new();
    for (name, help, counter) in [
        (
            "bytes_in",
            "Payload bytes received that matched their CRCs",
            &counters.bytes_in,
        ),
        (
            "bytes_out",
            "Payload bytes sent to readers",
            &counters.bytes_out,
        ),
        (
            "bytes_forwarded",
            "Payload bytes sent on to a next hop",
            &counters.bytes_forwarded,
        ),
        (
            "chunks_sealed",
            "Chunks sealed through a write stream",
            &counters.chunks_sealed,
        ),
        (
            "write_failures",
            "Write streams that failed",
            &counters.write_failures,
        ),
        (
            "read_failures",
            "Reads answered with a failure",
            &counters.read_failures,
        ),
        (
            "pieces_damaged",
            "Pieces that did not match their CRC",
            &counters.pieces_damaged,
        ),
        (
            "protocol_errors",
            "Connections closed for breaking the protocol",
            &counters.protocol_errors,
        ),
        (
            "hello_failures",
            "Connections whose hello failed",
            &counters.hello_failures,
        ),
        (
            "medium_errors",
            "Reads and writes that a disk failed",
            &counters.medium_errors,
        ),
        (
            "sync_failures",
            "Syncs that failed",
            &counters.sync_failures,
        ),
        (
            "chunks_corrupt",
            "Chunks read back that did not match",
            &counters.chunks_corrupt,
        ),
        (
            "chunks_copied",
            "Chunks copied from other chunkservers",
            &counters.chunks_copied,
        ),
        (
            "turns_held",
            "Frames that waited for other clients' turns",
            &counters.turns_held,
        ),
        (
            "copy_failures",
            "Orders to copy that came to nothing",
            &counters.copy_failures,
        ),
        (
            "bytes_copied",
            "Payload bytes of copies that matched their CRC",
            &counters.bytes_copied,
        ),
    ] {
        family(&mut out, &format!("{name}_total"), help, "counter");
        line(
            &mut out,
            &format!("sarsen_chunkd_{name}_total"),
            counter.value(),
        );
    }
    for (name, help, gauge) in [
        (
            "data_connections",
            "Connections on the data plane",
            &counters.connections,
        ),
        (
            "write_streams",
            "Write streams in hand",
            &counters.write_streams,
        ),
        ("read_streams", "Reads in hand", &counters.read_streams),
        ("copies", "Copies in hand", &counters.copies),
    ] {
        family(&mut out, name, help, "gauge");
        line(&mut out, &format!("sarsen_chunkd_{name}"), gauge.value());
    }
    disks(&mut out, &state.chunkserver);
    process(&mut out, state.mode);
    out
}

fn disks(out: &mut String, chunkserver: &Chunkserver) {
    family(out, "chunks", "Chunks held, by directory", "gauge");
    for directory in chunkserver.directories() {
        let label = label(&directory.root().display().to_string());
        let chunks = directory.chunk_count();
        line(
            out,
            &format!("sarsen_chunkd_chunks{{dir=\"{label}\"}}"),
            chunks,
        );
    }
}

fn process(out: &mut String, mode: Mode) {
    family(
        out,
        "io_uring",
        "Whether the data plane uses io_uring",
        "gauge",
    );
    line(out, "sarsen_chunkd_io_uring", u8::from(mode == Mode::Uring));
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    let _ = writeln!(
        out,
        "# HELP process_cpu_seconds_total CPU time of this process"
    );
    let _ = writeln!(out, "# TYPE process_cpu_seconds_total counter");
    let nanos = u32::try_from(cpu.tv_nsec).unwrap_or(0);
    line(
        out,
        "process_cpu_seconds_total",
        format_args!("{}.{nanos:09}", cpu.tv_sec),
    );
}

fn family(out: &mut String, name: &str, help: &str, kind: &str) {
    // Writing to a string does not fail.
    let _ = writeln!(out, "# HELP sarsen_chunkd_{name} {help}");
    let _ = writeln!(out, "# TYPE sarsen_chunkd_{name} {kind}");
}

fn line(out: &mut String, name: &str, value: impl std::fmt::Display) {
    let _ = writeln!(out, "{name} {value}");
}

/// A label's value, with what the format escapes.
fn label(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use sarsen_protocol::key::SecretKey;

    #[test]
    fn every_family_has_a_help_a_type_and_a_number() {
        let (chunkserver, _notices) = Chunkserver::new(SecretKey::new([0; 32]), vec![]);
        chunkserver.counters.bytes_in.add(7);
        let state = HttpState {
            chunkserver: Arc::new(chunkserver),
            mode: Mode::Epoll,
            is_ready: Arc::default(),
        };
        let text = text(&state);
        assert!(
            text.contains("\nsarsen_chunkd_bytes_in_total 7\n"),
            "{text}"
        );
        for name in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let name = name.split(' ').next().expect("a name");
            assert!(text.contains(&format!("# HELP {name} ")), "{name}");
        }
        assert_eq!(label("a\"b\\c"), "a\\\"b\\\\c");
    }
}
