//! What machine this is, in words that stand beside figures.

use std::fs;
use std::thread;

/// Its cores, their model, its memory and its kernel.
#[must_use]
pub fn describe() -> String {
    let cores = thread::available_parallelism().map_or(0, usize::from);
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let model = field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown".to_owned());
    let memory = field(&read("/proc/meminfo"), "MemTotal").and_then(|it| gib(&it));
    let memory = memory.map_or(String::new(), |gib| format!(", {gib} GiB"));
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("{cores} cores ({model}){memory}, Linux {}", kernel.trim())
}

/// The first value of a name in a file of `name: value` lines.
fn field(text: &str, name: &str) -> Option<String> {
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = lines.find(|(it, _)| it.trim() == name)?;
    Some(value.trim().to_owned())
}

/// GiB of what is told as `N kB`.
fn gib(told: &str) -> Option<u64> {
    let kib: u64 = told.split_whitespace().next()?.parse().ok()?;
    Some(kib >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_names() {
        let text = "model\t: 85\nmodel name\t: Some CPU\nmodel name\t: Other\n";
        assert_eq!(field(text, "model name").as_deref(), Some("Some CPU"));
        assert_eq!(field(text, "flags"), None);
        assert_eq!(gib("24554432 kB"), Some(23));
        assert_eq!(gib(""), None);
    }
}
