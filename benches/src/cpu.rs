//! Processor time, of this process and of others.

use std::time::Duration;

use anyhow::Context as _;
use rustix::param::clock_ticks_per_second;
use rustix::time::{ClockId, clock_gettime};

/// What this process has used, all threads together.
#[must_use]
pub fn own() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or_default();
    Duration::new(seconds, nanoseconds)
}

/// What another process has used so far, itself and in the kernel, in steps of 10 ms.
///
/// # Errors
/// When there is no such process.
pub fn of_process(id: u32) -> anyhow::Result<Duration> {
    let path = format!("/proc/{id}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let ticks = ticks_in(&text).with_context(|| format!("{path} says `{text}`"))?;
    let per_second = u32::try_from(clock_ticks_per_second().max(1)).unwrap_or(u32::MAX);
    Ok(Duration::from_secs(ticks) / per_second)
}

/// The sum of `utime` and `stime`, the 14th and 15th field. The second is a name, which may hold
/// anything, so they are counted from its end.
fn ticks_in(stat: &str) -> Option<u64> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    let mut fields = behind_name.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let kernel: u64 = fields.next()?.parse().ok()?;
    Some(user + kernel)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_does_not_shift_the_fields() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 250 31 0 0 20 0 1 0 5";
        assert_eq!(ticks_in(stat), Some(281));
        assert_eq!(ticks_in("7 (a) S 1"), None);
    }

    #[test]
    fn this_process_uses_processor_time() {
        let began = own();
        let of_process_before = of_process(std::process::id()).expect("it runs");
        while own() - began < Duration::from_millis(30) {
            std::hint::spin_loop();
        }
        assert!(of_process(std::process::id()).expect("it runs") > of_process_before);
    }
}
