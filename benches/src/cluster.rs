//! A cluster of real processes: `sarsen up` in a folder of its own, and verbs run against it.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::Context as _;
use serde_json::Value;

/// Builds `sarsen` as a user would, and returns the program.
///
/// # Errors
/// When it does not build.
pub fn program() -> anyhow::Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args([
            "build",
            "--quiet",
            "--release",
            "--package",
            "sarsen-client",
            "--bin",
            "sarsen",
        ])
        .status()
        .context("running cargo")?;
    anyhow::ensure!(built.success(), "sarsen does not build");
    // This program lies in target/release/deps.
    let here = std::env::current_exe()?;
    let release = here
        .ancestors()
        .nth(2)
        .context("a benchmark outside of target/release/deps")?;
    Ok(release.join("sarsen"))
}

/// A running cluster; ended when dropped.
#[derive(Debug)]
pub struct Cluster {
    program: PathBuf,
    up: Child,
    control: String,
    runtime: PathBuf,
}

impl Cluster {
    /// Starts a master and three chunkservers that keep everything in `folder`.
    ///
    /// # Errors
    /// When they don't start.
    pub fn start(program: &Path, folder: &Path) -> anyhow::Result<Self> {
        let mut up = Command::new(program)
            .args([
                "up",
                "--listen",
                "127.0.0.1:0",
                "--http",
                "127.0.0.1:0",
                "--dir",
            ])
            .arg(folder)
            .env("XDG_RUNTIME_DIR", folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting sarsen up")?;
        let mut line = String::new();
        let stdout = up.stdout.take().context("no stdout")?;
        BufReader::new(stdout).read_line(&mut line)?;
        let control = line
            .split_whitespace()
            .find_map(|word| word.strip_prefix("control="));
        let control = control
            .with_context(|| format!("sarsen up said `{line}`"))?
            .to_owned();
        Ok(Self {
            program: program.to_owned(),
            up,
            control,
            runtime: folder.to_owned(),
        })
    }

    /// Runs a verb with `--json`, and returns what it prints.
    ///
    /// # Errors
    /// When the verb fails.
    pub fn json<S: AsRef<OsStr>>(&self, args: &[S]) -> anyhow::Result<Value> {
        let output = Command::new(&self.program)
            .args(["--master", &self.control, "--json"])
            .args(args)
            .env("XDG_RUNTIME_DIR", &self.runtime)
            .stdin(Stdio::null())
            .output()?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "sarsen failed: {stderr}");
        Ok(serde_json::from_slice(&output.stdout).unwrap_or(Value::Null))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // `up` drains its daemons on SIGTERM; the shell's kill is the one way without unsafe code.
        let _ = Command::new("kill").arg(self.up.id().to_string()).status();
        let _ = self.up.wait();
    }
}
