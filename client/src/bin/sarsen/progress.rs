//! A progress bar on stderr, with rate and time left; nothing where stderr is no terminal.

use indicatif::{ProgressBar, ProgressStyle};
use sarsen_client::Progress;
use sarsen_edge::exit::one_line;

const WITH_TOTAL: &str =
    "{msg} [{wide_bar}] {bytes}/{total_bytes} {binary_bytes_per_sec} {eta} left";
const WITHOUT_TOTAL: &str = "{msg} {spinner} {bytes} {binary_bytes_per_sec}";

/// A bar that is cleared when it is dropped.
pub(crate) struct Bar(ProgressBar);

impl Bar {
    /// A bar for the transfer of `path`, of which the length is not known yet.
    pub(crate) fn new(path: &str) -> Self {
        let bar = ProgressBar::no_length();
        bar.set_message(one_line(path));
        bar.set_style(style(WITHOUT_TOTAL));
        Self(bar)
    }
}

impl Progress for Bar {
    fn total(&self, bytes: u64) {
        self.0.set_style(style(WITH_TOTAL));
        self.0.set_length(bytes);
    }

    fn done(&self, bytes: u64) {
        self.0.set_position(bytes);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
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
        for template in [WITH_TOTAL, WITHOUT_TOTAL] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
