//! `sarsen fsck`: what is wrong in the cluster, from metadata and reports.

use clap::Args;
use sarsen_client::FsckReport;
use sarsen_edge::exit::Exit;
use sarsen_edge::json;

use crate::context::{Context, cluster_path};
use crate::failure::Failure;
use crate::table::table;

/// What `sarsen fsck` is told.
#[derive(Args, Debug)]
pub(crate) struct FsckArgs {
    /// Only this file or folder; without it all, the trash too
    #[arg(default_value = "/")]
    path: String,
}

/// Runs the verb; the exit code says whether anything was found.
pub(crate) async fn run(args: &FsckArgs, context: &Context) -> Result<Exit, Failure> {
    let at = context.at(&args.path);
    let path = cluster_path(&args.path).map_err(&at)?;
    let client = context.client().await.map_err(&at)?;
    let report = client.fsck(path).await.map_err(context.at(path))?;
    let document = json::fsck(report.files, report.chunks, &report.findings);
    context.result(&document, &text(&report))?;
    match report.findings.is_empty() {
        true => Ok(Exit::Done),
        false => Ok(Exit::Failed),
    }
}

fn text(report: &FsckReport) -> String {
    let looked_at = format!("{} files, {} chunks", report.files, report.chunks);
    if report.findings.is_empty() {
        return format!("healthy: {looked_at}");
    }
    let rows = report
        .findings
        .iter()
        .map(|it| {
            let server = match it.server.is_some() {
                true => it.server.to_string(),
                false => String::new(),
            };
            vec![
                it.finding.name().to_owned(),
                it.handle.to_string(),
                format!("{} of {}", it.have, it.want),
                server,
                it.path.clone(),
            ]
        })
        .collect();
    let header = ["FINDING", "CHUNK", "GOOD COPIES", "SERVER", "PATH"];
    let findings = table(&header, &[], rows);
    format!(
        "{findings}\n{} findings in {looked_at}",
        report.findings.len()
    )
}
