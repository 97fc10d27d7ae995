use std::os::unix::ffi::OsStringExt as _;

use super::*;
use crate::exit::lines;

fn variables(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    pairs
        .iter()
        .map(|(name, value)| (name.into(), value.into()))
        .collect()
}

fn set(texts: &[&str]) -> Result<Settings, SettingsError> {
    let texts: Vec<_> = texts.iter().map(|&text| text.to_owned()).collect();
    Settings::load(None, [], &texts)
}

fn file(text: &str) -> Result<Settings, SettingsError> {
    let mut settings = Settings::default();
    settings
        .take_file(Path::new("/etc/sarsen.toml"), text)
        .map(|()| settings)
}

/// The table of the interfaces that people script against: a key, its default, another value.
const TABLE: &[(&str, &str, &str)] = &[
    ("heartbeat", "1s", "50ms"),
    ("suspect_after", "3s", "1m"),
    ("dead_after", "10s", "2h"),
    ("lease", "60s", "1d"),
    ("repair_grace", "30s", "31s"),
    ("trash_expiry", "3d", "50ms"),
    ("gc_interval", "10s", "50ms"),
    ("orphan_grace", "1h", "50ms"),
    ("pending_expiry", "1h", "50ms"),
    ("replicas", "3", "16"),
    ("min_replicas", "2", "1"),
    ("chunk_size", "64MiB", "1MiB"),
    ("safe_mode_fraction", "0.999", "0"),
    ("safe_mode_max", "60s", "50ms"),
    ("repair_streams_per_server", "4", "1"),
    ("repair_rate_per_server", "0", "100MiB"),
    ("hot_window", "60s", "50ms"),
    ("hot_reads_per_s", "200", "1"),
    ("hot_replicas_max", "8", "1"),
    ("scrub_cycle", "14d", "50ms"),
    ("io_threads", "2", "1024"),
    ("checkpoint_entries", "1000000", "1"),
];

#[test]
fn every_key_can_be_set_in_each_place_and_has_the_promised_default() {
    assert_eq!(
        KEYS.iter().map(|key| key.name).collect::<Vec<_>>(),
        TABLE.iter().map(|row| row.0).collect::<Vec<_>>()
    );
    for &(key, default, other) in TABLE {
        // These two have no value of their own until asked for.
        if key == "chunk_size" {
            assert_eq!(
                set(&["chunk_size=64MiB"]).expect("fine").chunk_size,
                Some(CHUNK_SIZE_DEFAULT)
            );
        } else if key != "io_threads" {
            let mut by_default = set(&[&format!("{key}={default}")]).expect(key);
            by_default.without_effect.clear();
            assert_eq!(by_default, Settings::default(), "{key}");
        }
        let by_set = set(&[&format!("{key}={other}")]).expect(key);
        assert_ne!(by_set, Settings::default(), "{key}");
        let variable = format!("SARSEN_{}", key.to_uppercase());
        let by_variable = Settings::load(None, variables(&[(&variable, other)]), &[]);
        assert_eq!(by_variable.expect(key), by_set, "{key}");
        assert_eq!(
            file(&format!("{key} = \"{other}\"")).expect(key),
            by_set,
            "{key}"
        );
    }
}

#[test]
fn the_command_line_overrules_the_environment_and_that_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("sarsen.toml");
    fs::write(&path, "heartbeat = '1m'\nlease = '1m'\nreplicas = 1\n").expect("writes");
    let environment = variables(&[("SARSEN_HEARTBEAT", "2m"), ("SARSEN_LEASE", "2m")]);
    let texts = ["heartbeat=3m".to_owned(), "heartbeat = 4m".to_owned()];
    let settings = Settings::load(Some(&path), environment, &texts).expect("fine");
    assert_eq!(settings.heartbeat, Duration::from_mins(4));
    assert_eq!(settings.lease, Duration::from_mins(2));
    assert_eq!(settings.replicas, 1);
    assert_eq!(settings.dead_after, Settings::default().dead_after);
}

#[test]
fn a_file_may_hold_numbers_as_numbers() {
    let settings = file("replicas = 2\nsafe_mode_fraction = 0.5\nrepair_rate_per_server = 0\n");
    let settings = settings.expect("fine");
    assert_eq!((settings.replicas, settings.safe_mode_fraction), (2, 0.5));
    assert_eq!(settings.repair_rate_per_server, None);
}

#[test]
fn variables_that_name_no_key_are_passed_over() {
    let environment = variables(&[
        ("SARSEN_MASTER", "127.0.0.1:7400"),
        ("SARSEN_PORT", "tcp://10.0.0.1:7400"),
        ("SARSEN_heartbeat", "nonsense"),
        ("HEARTBEAT", "nonsense"),
    ]);
    assert_eq!(
        Settings::load(None, environment, &[]).expect("fine"),
        Settings::default()
    );
}

#[test]
fn an_error_names_the_place_the_key_the_value_and_what_is_allowed() {
    let text = |error: SettingsError| lines("sarsen-master", &error);
    assert_eq!(
        text(set(&["heartbeat=10"]).expect_err("no unit")),
        "sarsen-master: --set: heartbeat can't be `10`: a time from 50ms to 36500d is allowed, \
         with one of the units ms, s, m, h, d\n"
    );
    let environment = variables(&[("SARSEN_REPLICAS", "17")]);
    assert_eq!(
        text(Settings::load(None, environment, &[]).expect_err("too many")),
        "sarsen-master: SARSEN_REPLICAS: replicas can't be `17`: a whole number from 1 to 16 is \
         allowed\n"
    );
    assert_eq!(
        text(file("chunk_size = '3MiB'").expect_err("no power of two")),
        "sarsen-master: /etc/sarsen.toml: chunk_size can't be `3MiB`: a power of two from 1MiB to \
         64MiB is allowed\n"
    );
    let unknown = text(set(&["heartbeet=1s"]).expect_err("unknown"));
    let (what, hint) = unknown.split_once('\n').expect("two lines");
    assert_eq!(
        what,
        "sarsen-master: --set: `heartbeet` is not a key, so it can't be `1s`"
    );
    assert!(
        hint.starts_with("hint: the keys are heartbeat, suspect_after"),
        "{hint}"
    );
}

#[test]
fn values_outside_of_their_bounds_are_refused() {
    for text in [
        "heartbeat=49ms",
        "heartbeat=",
        "replicas=0",
        "replicas=-1",
        "min_replicas=17",
        "chunk_size=512KiB",
        "chunk_size=128MiB",
        "chunk_size=0",
        "safe_mode_fraction=1.1",
        "safe_mode_fraction=NaN",
        "io_threads=0",
        "checkpoint_entries=0",
        "repair_rate_per_server=1MB",
        "repair_streams_per_server=1025",
    ] {
        let error = set(&[text]).expect_err(text);
        assert!(
            matches!(error, SettingsError::ValueInvalid { .. }),
            "{text}: {error:?}"
        );
        assert_eq!(error.exit(), Exit::Usage);
    }
    assert!(matches!(
        set(&["heartbeat"]),
        Err(SettingsError::NotAPair { .. })
    ));
    assert!(matches!(
        set(&["=1s"]),
        Err(SettingsError::KeyUnknown { .. })
    ));
}

#[test]
fn a_variable_that_is_not_text_is_a_wrong_value() {
    let environment = [(
        "SARSEN_LEASE".into(),
        OsString::from_vec(vec![b'1', 0xff, b's']),
    )];
    let error = Settings::load(None, environment, &[]).expect_err("not text");
    assert!(
        matches!(error, SettingsError::ValueInvalid { key: "lease", .. }),
        "{error:?}"
    );
}

#[test]
fn a_wrong_file_is_named_with_the_line() {
    let malformed = |text: &str| match file(text).expect_err(text) {
        SettingsError::FileMalformed { line, message, .. } => {
            assert!(!message.is_empty());
            line
        }
        other => panic!("{text}: {other:?}"),
    };
    assert_eq!(malformed("heartbeat = "), 1);
    assert_eq!(malformed("heartbeat = '1s'\n\nlease 60\n"), 3);
    assert_eq!(malformed("lease = '1s'\nlease = '2s'\n"), 2);
    assert!(matches!(
        file("[master]\nlease = '1s'"),
        Err(SettingsError::KeyUnknown { .. })
    ));
    assert!(matches!(
        file("lease = ['1s']"),
        Err(SettingsError::ValueInvalid { .. })
    ));
    let missing = Settings::load(Some(Path::new("/nonexistent/sarsen.toml")), [], &[]);
    assert!(matches!(missing, Err(SettingsError::FileUnreadable { .. })));
}

#[test]
fn what_will_hardly_work_is_told_and_the_defaults_are_not() {
    assert!(Settings::default().warnings().is_empty());
    for text in ["heartbeat=3s", "dead_after=2s", "replicas=1"] {
        assert_eq!(set(&[text]).expect(text).warnings().len(), 1, "{text}");
    }
}

/// Who set one heard nothing, and waited for a scrub that never came.
#[test]
fn a_key_without_effect_is_told_wherever_it_is_set_also_to_its_default() {
    for key in WITHOUT_EFFECT {
        let row = TABLE.iter().find(|row| row.0 == *key);
        let (_, default, other) = row.expect("a key");
        let told = [format!("{key} is set, and has no effect yet")];
        for value in [default, other] {
            let by_set = set(&[&format!("{key}={value}")]).expect(key);
            assert_eq!(by_set.warnings(), told);
            let variable = format!("SARSEN_{}", key.to_uppercase());
            let by_variable = Settings::load(None, variables(&[(&variable, value)]), &[]);
            assert_eq!(by_variable.expect(key).warnings(), told);
            let by_file = file(&format!("{key} = \"{value}\"")).expect(key);
            assert_eq!(by_file.warnings(), told);
        }
    }
}
