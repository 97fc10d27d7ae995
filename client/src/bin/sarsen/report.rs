//! `sarsen report`: servers and disks.

use std::time::Duration;

use sarsen_edge::exit::Exit;
use sarsen_edge::json;
use sarsen_protocol::message::{ReportReply, ServerReport};

use crate::context::Context;
use crate::failure::Failure;
use crate::table::{seconds, size, table};

/// Runs the verb.
pub(crate) async fn run(context: &Context) -> Result<Exit, Failure> {
    let client = context.client().await.map_err(context.at(""))?;
    let report = client.report().await.map_err(context.at(""))?;
    context.result(&json::report(&report), &text(&report))?;
    Ok(Exit::Done)
}

/// The report as people read it.
pub(crate) fn text(report: &ReportReply) -> String {
    let mut lines = vec![format!("epoch {}", report.epoch.number)];
    if report.safe_mode {
        lines.push("safe mode: changes wait until enough chunks were reported".to_owned());
    }
    if report.read_only {
        lines.push("read only: the master lost a part of its log".to_owned());
    }
    let repairs = &report.repairs;
    if repairs.waiting > 0 || repairs.running > 0 {
        lines.push(format!(
            "repair: {} chunks wait for a copy, {} copies under way",
            repairs.waiting, repairs.running
        ));
    }
    let rows = report.servers.iter().flat_map(rows).collect();
    let header = [
        "SERVER", "STATE", "HEARD", "DATA", "RACK", "DISK", "STATE", "CHUNKS", "FREE", "TOTAL",
    ];
    lines.push(table(&header, &[0, 7, 8, 9], rows));
    lines.join("\n")
}

/// A row a disk; a server's own columns only in its first.
fn rows(server: &ServerReport) -> Vec<Vec<String>> {
    let heard = match server.last_heartbeat {
        u32::MAX => "never".to_owned(),
        ms => format!("{} ago", seconds(Duration::from_millis(ms.into()))),
    };
    let own = vec![
        server.id.to_string(),
        server.state.name().to_owned(),
        heard,
        server.data_addr.clone(),
        server.rack.clone(),
    ];
    if server.disks.is_empty() {
        return vec![own];
    }
    let disks = server.disks.iter().enumerate();
    let rows = disks.map(|(place, disk)| {
        let mut row = match place {
            0 => own.clone(),
            _ => vec![String::new(); own.len()],
        };
        row.extend([
            disk.path.clone(),
            disk.state.name().to_owned(),
            disk.chunks.to_string(),
            size(disk.free),
            size(disk.total),
        ]);
        row
    });
    rows.collect()
}
