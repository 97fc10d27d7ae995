//! What the chunkservers' processors have done: each tells it at its HTTP port.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::Request;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper_util::rt::TokioIo;
use sarsen_client::Client;
use sarsen_protocol::message::ServerState;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long one of them is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// Bytes of an answer at the most: far more than there are numbers.
const ANSWER_LEN_MAX: usize = 1 << 20;

/// The name of the number.
const NAME: &str = "process_cpu_seconds_total ";

/// Processor time of all chunkservers that live, since they started; none if one does not tell.
pub(super) async fn cpu(client: &Client) -> Option<Duration> {
    let report = client.report().await.ok()?;
    let mut sum = Duration::ZERO;
    for server in report.servers {
        if server.state != ServerState::Dead {
            sum += timeout(PATIENCE, cpu_of(&server.http_addr)).await.ok()??;
        }
    }
    Some(sum)
}

async fn cpu_of(addr: &str) -> Option<Duration> {
    let stream = TcpStream::connect(addr).await.ok()?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    let request = Request::get("/metrics").header(HOST, addr);
    let request = request.body(Empty::<Bytes>::new()).ok()?;
    // The connection ends with its sender.
    let asked = async move {
        let answer = sender.send_request(request).await.ok()?;
        let body = Limited::new(answer.into_body(), ANSWER_LEN_MAX);
        Some(body.collect().await.ok()?.to_bytes())
    };
    let (_, answer) = tokio::join!(connection, asked);
    seconds(std::str::from_utf8(&answer?).ok()?)
}

fn seconds(metrics: &str) -> Option<Duration> {
    let told = metrics.lines().find_map(|line| line.strip_prefix(NAME))?;
    Duration::try_from_secs_f64(told.trim().parse().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_is_found_among_others() {
        let text =
            "# HELP process_cpu_seconds_total CPU\nother 3\nprocess_cpu_seconds_total 1.500\n";
        assert_eq!(seconds(text), Some(Duration::from_millis(1_500)));
        assert_eq!(seconds("other 3\n"), None);
        assert_eq!(seconds("process_cpu_seconds_total -1\n"), None);
    }
}
