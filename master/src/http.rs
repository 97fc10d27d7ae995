//! The master's HTTP port: metrics, health, the status page, and the cluster's state as JSON.
//!
//! Everything is asked of the master's thread through [`Questions`], as a client would ask, and
//! given out in the documents that `sarsen --json` prints. Nothing can be changed here. Nobody has to
//! prove anything either, so what costs much is asked through [`Walks`].

use std::net::SocketAddr;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::serve::Listener;
use sarsen_edge::guest::{Guest, Guests};
use sarsen_edge::json;
use sarsen_protocol::message::{
    CapacityReply, Disk, ErrorBody, List, ListEntry, NodeType, Report, ReportReply, ServerState,
    Stat,
};
use sarsen_protocol::status::Status;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::inputs::Questions;
use crate::walks::{PAGE_LEN, Walks};

/// Names in one answer to `/api/v1/ls`, which is in memory at once.
const LISTED_MAX: usize = 100_000;

/// The port, with few guests at a time.
pub(crate) struct Port(pub(crate) Guests);

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

/// The routes.
pub(crate) fn router(questions: Questions) -> Router {
    let walks = Walks::new(questions.clone());
    let costly = Router::new()
        .route("/", get(status_page))
        .route("/metrics", get(metrics))
        .route("/api/v1/fsck", get(fsck))
        .with_state((questions.clone(), walks));
    Router::new()
        .route("/health/live", get(|| async { "live\n" }))
        .route("/health/ready", get(ready))
        .route("/api/v1/report", get(report))
        .route("/api/v1/stat", get(stat))
        .route("/api/v1/ls", get(list))
        .with_state(questions)
        .merge(costly)
}

#[derive(Deserialize)]
struct PathQuery {
    #[serde(default = "root")]
    path: String,
    #[serde(default)]
    after: String,
}

fn root() -> String {
    "/".to_owned()
}

/// A failure as the JSON that the command line prints, under a fitting HTTP status.
struct Failure(Status, ErrorBody);

impl From<(Status, ErrorBody)> for Failure {
    fn from((status, error): (Status, ErrorBody)) -> Self {
        Self(status, error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Self(status, error) = self;
        let code = match status {
            Status::NotFound => StatusCode::NOT_FOUND,
            Status::NameInvalid
            | Status::NotAFolder
            | Status::InvalidArgument
            | Status::TooLarge => StatusCode::BAD_REQUEST,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        let document = json!({ "error": { "code": status.name(), "message": error.text } });
        (code, axum::Json(document)).into_response()
    }
}

async fn ready(State(questions): State<Questions>) -> Result<&'static str, Failure> {
    let report = questions.ask(Report).await?;
    let not_ready = |status, text| Err(Failure(status, ErrorBody::new(text)));
    match (report.read_only, report.safe_mode) {
        (true, _) => not_ready(Status::ReadOnly, "a part of the log is lost"),
        (false, true) => not_ready(Status::SafeMode, "changes wait"),
        (false, false) => Ok("ready\n"),
    }
}

async fn report(State(questions): State<Questions>) -> Result<axum::Json<Value>, Failure> {
    Ok(axum::Json(json::report(&questions.ask(Report).await?)))
}

async fn fsck(
    State((_, walks)): State<(Questions, Walks)>,
    Query(query): Query<PathQuery>,
) -> Result<axum::Json<Value>, Failure> {
    let checked = walks.check(query.path).await?;
    let mut document = json::fsck(checked.files, checked.chunks, &checked.findings);
    if checked.more {
        // `sarsen fsck` tells all of them.
        document["more"] = true.into();
    }
    Ok(axum::Json(document))
}

async fn stat(
    State(questions): State<Questions>,
    Query(query): Query<PathQuery>,
) -> Result<axum::Json<Value>, Failure> {
    let reply = questions
        .ask(Stat {
            path: query.path.clone(),
        })
        .await?;
    let mut document = json::stat(&query.path, &reply.node);
    if reply.node.node_type == NodeType::File && !reply.node.sealed {
        // The primary, which knows it, is not asked here.
        document["exact"] = false.into();
    }
    Ok(axum::Json(document))
}

async fn list(
    State(questions): State<Questions>,
    Query(query): Query<PathQuery>,
) -> Result<axum::Json<Value>, Failure> {
    let PathQuery { path, mut after } = query;
    let node = questions.ask(Stat { path: path.clone() }).await?.node;
    let document = |entry: &ListEntry| match node.node_type {
        NodeType::File => json::list_entry(&path, entry),
        NodeType::Folder => {
            let child = format!("{}/{}", path.trim_end_matches('/'), entry.name);
            json::list_entry(&child, entry)
        }
    };
    let mut documents = Vec::new();
    loop {
        let page = List {
            path: path.clone(),
            after,
            limit: PAGE_LEN,
        };
        let reply = questions.ask(page).await?;
        documents.extend(reply.entries.iter().map(document));
        match reply.entries.last() {
            Some(_) if reply.more && documents.len() >= LISTED_MAX => {
                let text = format!("more than {LISTED_MAX} names: list it with `sarsen ls`");
                return Err(Failure(Status::TooLarge, ErrorBody::new(text)));
            }
            Some(last) if reply.more => after = last.name.clone(),
            _ => return Ok(axum::Json(documents.into())),
        }
    }
}

async fn metrics(
    State((questions, walks)): State<(Questions, Walks)>,
) -> Result<Response, Failure> {
    let report = questions.ask(Report).await?;
    let capacity = walks.capacity().await?;
    let text = metrics_text(&report, &capacity);
    let kind = [(
        header::CONTENT_TYPE,
        "text/plain; version=0.0.4; charset=utf-8",
    )];
    Ok((kind, text).into_response())
}

/// The Prometheus exposition format.
fn metrics_text(report: &ReportReply, capacity: &CapacityReply) -> String {
    let count = |state| {
        report
            .servers
            .iter()
            .filter(|server| server.state == state)
            .count()
    };
    let mut text = String::new();
    let mut gauge = |name: &str, meaning: &str, samples: &[(&str, u64)]| {
        text.push_str(&format!("# HELP sarsen_master_{name} {meaning}\n"));
        text.push_str(&format!("# TYPE sarsen_master_{name} gauge\n"));
        for (labels, value) in samples {
            text.push_str(&format!("sarsen_master_{name}{labels} {value}\n"));
        }
    };
    gauge(
        "epoch",
        "Number of the master's epoch.",
        &[("", report.epoch.number)],
    );
    gauge(
        "safe_mode",
        "Whether changes wait for reports.",
        &[("", report.safe_mode.into())],
    );
    gauge(
        "read_only",
        "Whether the log was lost in part.",
        &[("", report.read_only.into())],
    );
    gauge(
        "chunkservers",
        "Chunkservers by state.",
        &[
            ("{state=\"live\"}", count(ServerState::Live) as u64),
            ("{state=\"dead\"}", count(ServerState::Dead) as u64),
        ],
    );
    gauge(
        "total_bytes",
        "Bytes of the live servers' disks.",
        &[("", capacity.total)],
    );
    gauge(
        "free_bytes",
        "Bytes that users may still take.",
        &[("", capacity.free)],
    );
    gauge(
        "used_bytes",
        "Bytes that files' chunks take.",
        &[("", capacity.used)],
    );
    gauge(
        "trash_bytes",
        "Bytes that chunks in the trash take.",
        &[("", capacity.trash)],
    );
    gauge(
        "repairs_waiting",
        "Chunks that are to be copied and are not yet.",
        &[("", report.repairs.waiting)],
    );
    gauge(
        "repairs_running",
        "Copies of chunks under way.",
        &[("", report.repairs.running.into())],
    );
    let mut counter = |name: &str, meaning: &str, value: u64| {
        text.push_str(&format!("# HELP sarsen_master_{name} {meaning}\n"));
        text.push_str(&format!("# TYPE sarsen_master_{name} counter\n"));
        text.push_str(&format!("sarsen_master_{name} {value}\n"));
    };
    counter(
        "repairs_done_total",
        "Copies of chunks that were ordered and counted in the end.",
        report.repairs.done,
    );
    counter(
        "repairs_failed_total",
        "Copies of chunks that were ordered and came to nothing.",
        report.repairs.failed,
    );
    text
}

async fn status_page(
    State((questions, walks)): State<(Questions, Walks)>,
) -> Result<Html<String>, Failure> {
    let report = questions.ask(Report).await?;
    let capacity = walks.capacity().await?;
    Ok(Html(status_html(&report, &capacity)))
}

fn status_html(report: &ReportReply, capacity: &CapacityReply) -> String {
    const GIB: u64 = 1024 * 1024 * 1024;
    let mode = match (report.read_only, report.safe_mode) {
        (true, _) => "read-only: a part of the log is lost",
        (false, true) => "safe mode: changes wait for reports",
        (false, false) => "serving",
    };
    let mut rows = String::new();
    for server in &report.servers {
        let sum = |part: fn(&Disk) -> u64| {
            let parts = server.disks.iter().map(part);
            parts.fold(0, u64::saturating_add)
        };
        let (chunks, free) = (sum(|disk| disk.chunks), sum(|disk| disk.free));
        rows.push_str(&format!(
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{chunks}</td><td>{} GiB</td></tr>\n",
            server.id,
            escape(&server.control_addr),
            escape(&server.rack),
            server.state.name(),
            free / GIB,
        ));
    }
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Sarsen</title>\
         <style>body{{font:16px sans-serif;margin:2em}}td,th{{padding:.2em 1em;text-align:left}}\
         </style></head><body>\n<h1>Sarsen</h1>\n<p>Epoch {}, {mode}.</p>\n\
         <p>{} GiB free of {} GiB; files take {} GiB, the trash {} GiB.</p>\n\
         <p>Repair: {} chunks wait for a copy, {} copies under way, {} done, {} failed.</p>\n\
         <table><tr><th>server</th><th>address</th><th>rack</th><th>state</th><th>chunks</th>\
         <th>free</th></tr>\n{rows}</table>\n</body></html>\n",
        report.epoch.number,
        capacity.free / GIB,
        capacity.total / GIB,
        capacity.used / GIB,
        capacity.trash / GIB,
        report.repairs.waiting,
        report.repairs.running,
        report.repairs.done,
        report.repairs.failed,
    )
}

/// Text between tags: a rack or an address is what a chunkserver said it is.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use sarsen_protocol::id::{Epoch, ServerId};
    use sarsen_protocol::message::{Repairs, ServerReport};

    use super::*;

    fn cluster() -> (ReportReply, CapacityReply) {
        let server = ServerReport {
            id: ServerId(1),
            control_addr: "127.0.0.1:1".into(),
            data_addr: "127.0.0.1:2".into(),
            http_addr: "127.0.0.1:3".into(),
            rack: "<script>".into(),
            state: ServerState::Live,
            last_heartbeat: 5,
            disks: Vec::new(),
        };
        let report = ReportReply {
            epoch: Epoch {
                number: 7,
                incarnation: 1,
            },
            safe_mode: false,
            read_only: false,
            servers: vec![server],
            repairs: Repairs {
                failed: 3,
                ..Repairs::default()
            },
        };
        (
            report,
            CapacityReply {
                total: 4,
                free: 3,
                used: 2,
                trash: 1,
            },
        )
    }

    #[test]
    fn metrics_are_one_sample_a_line() {
        let (report, capacity) = cluster();
        let text = metrics_text(&report, &capacity);
        assert!(text.contains("\nsarsen_master_chunkservers{state=\"live\"} 1\n"));
        assert!(text.ends_with(
            "# TYPE sarsen_master_repairs_failed_total counter\n\
             sarsen_master_repairs_failed_total 3\n"
        ));
        assert!(
            text.contains("# TYPE sarsen_master_free_bytes gauge\nsarsen_master_free_bytes 3\n")
        );
    }

    #[test]
    fn what_a_chunkserver_says_of_itself_is_text() {
        let (report, capacity) = cluster();
        let page = status_html(&report, &capacity);
        assert!(page.contains("&lt;script&gt;") && !page.contains("<script>"));
    }
}
