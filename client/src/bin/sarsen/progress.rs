//! A progress bar on stderr, with rate and time left; nothing where stderr is no terminal.

use std::sync::{Arc, OnceLock};

use indicatif::{ProgressBar, ProgressStyle};
use sarsen_client::Progress;
use sarsen_edge::exit::one_line;

const WITH_TOTAL: &str =
    "{msg} [{wide_bar}] {bytes}/{total_bytes} {binary_bytes_per_sec} {eta} left";
const WITHOUT_TOTAL: &str = "{msg} {spinner} {bytes} {binary_bytes_per_sec}";
const OF_A_TREE: &str = "{msg} {spinner} {bytes} of {total_bytes} found {binary_bytes_per_sec}";

/// A bar that is cleared when it is dropped.
pub(crate) struct Bar {
    bar: ProgressBar,
    message: String,
    /// Of a tree, how many bytes it will be is not known before all of it was found.
    is_tree: bool,
    whole: OnceLock<u64>,
}

impl Bar {
    /// A bar for the transfer of `path`, of which the length is not known yet.
    pub(crate) fn new(path: &str) -> Self {
        let bar = ProgressBar::no_length();
        let message = one_line(path);
        bar.set_message(message.clone());
        bar.set_style(style(WITHOUT_TOTAL));
        Self {
            bar,
            message,
            is_tree: false,
            whole: OnceLock::new(),
        }
    }

    /// A bar for all files of a tree.
    pub(crate) fn of_tree(path: &str) -> Self {
        let mut bar = Self::new(path);
        bar.is_tree = true;
        bar.bar.set_style(style(OF_A_TREE));
        bar
    }

    /// Writes something else to the terminal, above the bar.
    pub(crate) fn above<T>(bar: Option<&Arc<Self>>, write: impl FnOnce() -> T) -> T {
        match bar {
            Some(bar) => bar.bar.suspend(write),
            None => write(),
        }
    }
}

impl Progress for Bar {
    fn total(&self, bytes: u64) {
        if self.whole.get().is_some() {
            return;
        }
        if !self.is_tree {
            self.bar.set_style(style(WITH_TOTAL));
        }
        self.bar.set_length(bytes);
    }

    fn done(&self, bytes: u64) {
        self.bar.set_position(bytes);
    }

    fn whole(&self, bytes: u64) {
        self.whole.get_or_init(|| bytes);
        self.bar.set_style(style(WITH_TOTAL));
        self.bar.set_length(bytes);
    }

    fn files(&self, files: u64) {
        self.bar
            .set_message(format!("{}, {files} files", self.message));
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_are_well_formed() {
        for template in [WITH_TOTAL, WITHOUT_TOTAL, OF_A_TREE] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
