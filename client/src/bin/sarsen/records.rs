//! `sarsen records`: every record of a file once.

use std::fs::File;
use std::io;
use std::mem;
use std::sync::Arc;

use clap::Args;
use sarsen_client::{ReadRecord, RecordReader};
use sarsen_edge::exit::Exit;
use serde_json::json;

use crate::context::{Context, stream, write_out};
use crate::failure::Failure;

/// Bytes that are gathered before they are written.
const GATHERED_LEN: usize = 1 << 20;

/// What `sarsen records` is told.
#[derive(Args, Debug)]
pub(crate) struct RecordsArgs {
    /// A file in the cluster
    path: String,
}

/// Runs the verb.
pub(crate) async fn run(args: &RecordsArgs, context: &Context) -> Result<Exit, Failure> {
    let at = context.at(&args.path);
    let path = context.path(&args.path).await.map_err(&at)?;
    let stdout = Arc::new(stream("stdout", io::stdout()).map_err(&at)?);
    let client = context.client().await.map_err(&at)?;
    let mut records = client.records(path).await.map_err(context.at(path))?;
    let mut gathered = Vec::with_capacity(GATHERED_LEN);
    let shown = show(&mut records, &mut gathered, &stdout, path, context).await;
    // What was read before a failure is shown, too.
    let written = write_out(&stdout, gathered).await;
    shown.and(written.map_err(context.at("")))?;
    if records.leftover() > 0 {
        let what = format!(
            "{} bytes that are not zero belong to no record and were passed over",
            records.leftover()
        );
        context.warn(path, &what);
    }
    Ok(Exit::Done)
}

/// Writes all records but for the last bytes, which are left in `gathered`.
async fn show(
    records: &mut RecordReader,
    gathered: &mut Vec<u8>,
    stdout: &Arc<File>,
    path: &str,
    context: &Context,
) -> Result<(), Failure> {
    while let Some(record) = records.next().await.map_err(context.at(path))? {
        match context.globals.json {
            true => gathered.extend_from_slice(document(&record).to_string().as_bytes()),
            false => gathered.extend_from_slice(record.payload),
        }
        gathered.push(b'\n');
        if gathered.len() >= GATHERED_LEN {
            let full = mem::replace(gathered, Vec::with_capacity(GATHERED_LEN));
            let written = write_out(stdout, full).await;
            written.map_err(context.at(""))?;
        }
    }
    Ok(())
}

fn document(record: &ReadRecord<'_>) -> serde_json::Value {
    json!({
        "offset": record.offset,
        "length": record.payload.len(),
        "id": format!("{}:{}", record.session, record.number),
        "data": base64(record.payload),
    })
}

/// RFC 4648 section 4, with padding.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |place: usize| u32::from(group.get(place).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let is_there = digit <= group.len();
            let value = (bits >> (18 - 6 * digit)) & 63;
            text.push(match is_there {
                true => char::from(DIGITS[value as usize]),
                false => '=',
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of RFC 4648 section 10.
    #[test]
    fn base64_is_that_of_the_rfc() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xff, 0xfe, 0xfd]), "//79");
    }
}
