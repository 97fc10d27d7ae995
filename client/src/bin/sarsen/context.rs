//! What every verb has: the cluster, connected to when it is first needed, and where results go.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sarsen_client::{Client, ClientConfig, Error, Progress, path};
use sarsen_edge::exit::one_line;
use sarsen_edge::key;
use sarsen_protocol::message::NodeType;
use serde_json::Value;
use tokio::sync::OnceCell;
use tokio::time::sleep;

use crate::args::Globals;
use crate::failure::{Failure, Problem, document, lines};
use crate::progress::Bar;

/// How often a verb that writes nothing looks whether anybody would read it.
const LOOK_PERIOD: Duration = Duration::from_millis(200);

/// A verb's surroundings.
pub(crate) struct Context {
    /// Its name, for errors.
    verb: &'static str,
    pub(crate) globals: Globals,
    client: OnceCell<Client>,
    /// A folder of the verb's own in the cluster, which goes with it.
    own_folder: Mutex<Option<String>>,
}

impl Context {
    pub(crate) fn new(verb: &'static str, globals: Globals) -> Self {
        Self {
            verb,
            globals,
            client: OnceCell::new(),
            own_folder: Mutex::new(None),
        }
    }

    /// The cluster. Verbs check their arguments first, so that wrong usage needs no cluster.
    pub(crate) async fn client(&self) -> Result<&Client, Problem> {
        self.client.get_or_try_init(|| self.connect()).await
    }

    /// The path of something that is there, as people write it: one that ends in `/` is a folder's, and
    /// what is found under it must not be a file.
    pub(crate) async fn path<'a>(&self, text: &'a str) -> Result<&'a str, Problem> {
        let path = cluster_path(text)?;
        if text.len() > path.len() {
            let node = self.client().await?.stat(path).await?;
            if node.node_type == NodeType::File {
                return Err(Problem::NotAFolder);
            }
        }
        Ok(path)
    }

    /// Another client of the same cluster, with a session of its own.
    pub(crate) async fn connect(&self) -> Result<Client, Problem> {
        let mut config = ClientConfig::default();
        config.masters.clone_from(&self.globals.master);
        config.timeout = self.globals.timeout;
        if let Some(file) = &self.globals.key_file {
            config.key = Some(key::load(file)?);
        }
        Ok(Client::connect(config).await?)
    }

    /// A folder in the cluster is to be made for this verb alone: it goes with all that is in it when the
    /// verb is interrupted.
    pub(crate) fn owns(&self, folder: &str) {
        *self.lock_own_folder() = Some(folder.to_owned());
    }

    /// Removes the verb's own folder, if it has one.
    pub(crate) async fn remove_own_folder(&self) -> Result<(), Problem> {
        let folder = self.lock_own_folder().clone();
        if let Some(folder) = folder {
            self.client().await?.remove(&folder, true, true).await?;
            // Not before: an interruption would leave it behind.
            *self.lock_own_folder() = None;
        }
        Ok(())
    }

    fn lock_own_folder(&self) -> MutexGuard<'_, Option<String>> {
        let own = self.own_folder.lock();
        own.unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the session, if there is one; what the verb alone had goes before.
    pub(crate) async fn close(&self) {
        // Nobody is left to tell.
        let _ = self.remove_own_folder().await;
        if let Some(client) = self.client.get() {
            client.clone().close().await;
        }
    }

    /// What turns a problem with `path` into the verb's failure.
    pub(crate) fn at<P: Into<Problem>>(&self, path: &str) -> impl Fn(P) -> Failure + use<P> {
        let (verb, path) = (self.verb, path.to_owned());
        move |problem| Failure {
            verb,
            path: path.clone(),
            problem: problem.into(),
        }
    }

    /// Tells a failure that is not the verb's last word.
    pub(crate) fn tell(&self, failure: &Failure) {
        let text = match self.globals.json {
            true => format!("{}\n", document(failure)),
            false => lines(failure),
        };
        // With stderr closed there is nobody left to tell.
        let _ = io::stderr().write_all(text.as_bytes());
    }

    /// Tells something worth knowing about a verb that succeeds; scripts find it in the result.
    pub(crate) fn warn(&self, path: &str, what: &str) {
        if !self.globals.quiet && !self.globals.json {
            let text = one_line(&format!("sarsen: {} {path}: {what}", self.verb));
            let _ = writeln!(io::stderr(), "{text}");
        }
    }

    /// Writes a result: `document` with `--json`, else `text` if it isn't empty. That nobody reads it is no
    /// failure: the verb goes on, and its exit code tells what came of it.
    pub(crate) fn result(&self, document: &Value, text: &str) -> Result<(), Failure> {
        self.result_if_read(document, text).map(|_| ())
    }

    /// The same of a verb that has more to do; whether anybody reads it.
    pub(crate) fn result_if_read(&self, document: &Value, text: &str) -> Result<bool, Failure> {
        let text = match self.globals.json {
            true => document.to_string(),
            false => text.to_owned(),
        };
        self.write(&text)
    }

    /// Writes what is only worth knowing, as the speed of a transfer: not with `--quiet`.
    pub(crate) fn summary(&self, document: &Value, text: &str) -> Result<(), Failure> {
        match self.globals.quiet && !self.globals.json {
            true => Ok(()),
            false => self.result(document, text),
        }
    }

    fn write(&self, text: &str) -> Result<bool, Failure> {
        if text.is_empty() {
            return Ok(true);
        }
        let mut stdout = io::stdout().lock();
        let written = writeln!(stdout, "{}", text.trim_end_matches('\n'));
        let written = written.and_then(|()| stdout.flush());
        match written {
            // Who closed the pipe has what it wanted.
            Err(source) if source.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            Err(source) => Err(self.at("")(stdout_failed(source))),
            Ok(()) => Ok(true),
        }
    }

    /// A bar on a terminal; it shows nothing elsewhere.
    pub(crate) fn bar(&self, path: &str) -> Option<Arc<Bar>> {
        let shown = !self.globals.quiet && !self.globals.json;
        shown.then(|| Arc::new(Bar::new(path)))
    }

    /// The same for a tree.
    pub(crate) fn tree_bar(&self, path: &str) -> Option<Arc<Bar>> {
        let shown = !self.globals.quiet && !self.globals.json;
        shown.then(|| Arc::new(Bar::of_tree(path)))
    }
}

/// A bar as the library takes it.
pub(crate) fn as_progress(bar: Option<&Arc<Bar>>) -> Option<Arc<dyn Progress>> {
    let bar: Arc<dyn Progress> = bar?.clone();
    Some(bar)
}

/// A path in the cluster as people write it: a `/` at the end of a folder's is allowed.
pub(crate) fn cluster_path(text: &str) -> Result<&str, Problem> {
    let trimmed = match text.trim_end_matches('/') {
        "" if text.starts_with('/') => "/",
        trimmed => trimmed,
    };
    path::check(trimmed).map_err(Error::from)?;
    Ok(trimmed)
}

/// A word of the command line that is to be text.
pub(crate) fn text(path: &Path) -> Result<&str, Problem> {
    path.to_str().ok_or_else(|| Problem::NotText {
        path: path.to_owned(),
    })
}

/// Our stdin or stdout as an open file, read and written without a buffer in between.
pub(crate) fn stream(name: &'static str, fd: impl AsFd) -> Result<File, Problem> {
    let cloned = fd.as_fd().try_clone_to_owned();
    let owned = cloned.map_err(|source| Problem::Stream { name, source })?;
    Ok(File::from(owned))
}

/// Writes bytes to our stdout as [`stream`] opened it. On a thread of its own: whoever reads them may take
/// its time, and an interruption is not to wait for that.
pub(crate) async fn write_out(stdout: &Arc<File>, bytes: Vec<u8>) -> Result<(), Problem> {
    let stdout = stdout.clone();
    let written = tokio::task::spawn_blocking(move || (&*stdout).write_all(&bytes));
    written.await.map_err(Error::from)?.map_err(stdout_failed)
}

/// Whether nobody reads what is written to it any more.
pub(crate) fn is_unread(stdout: impl AsFd) -> bool {
    let mut fds = [PollFd::new(&stdout, PollFlags::empty())];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let polled = poll(&mut fds, Some(&now));
    polled.is_ok() && fds.iter().any(|fd| fd.revents().contains(PollFlags::ERR))
}

/// Waits until that is so, and a moment more.
pub(crate) async fn until_unread(stdout: impl AsFd) {
    loop {
        sleep(LOOK_PERIOD).await;
        if is_unread(&stdout) {
            return;
        }
    }
}

fn stdout_failed(source: io::Error) -> Problem {
    Problem::Stream {
        name: "stdout",
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sarsen_edge::exit::{Exit, Explain as _};

    #[test]
    fn a_pipe_without_a_reader_is_unread() {
        let (reader, writer) = io::pipe().unwrap();
        assert!(!is_unread(&writer));
        drop(reader);
        assert!(is_unread(&writer));
    }

    #[test]
    fn a_slash_at_the_end_is_taken_off() {
        for (text, path) in [("/", "/"), ("//", "/"), ("/a/", "/a"), ("/a/b", "/a/b")] {
            assert_eq!(cluster_path(text).unwrap(), path);
        }
        for text in ["", "a", "a/", "/a//b"] {
            assert_eq!(cluster_path(text).unwrap_err().exit(), Exit::Usage);
        }
    }
}
