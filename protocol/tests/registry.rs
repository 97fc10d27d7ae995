//! The tables of the specification and those of the code say the same.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use sarsen_protocol::message::{Kind, Plane};
use sarsen_protocol::status::Status;

fn page(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../spec")
        .join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The cells of every table row of a page.
fn rows(page: &str) -> impl Iterator<Item = Vec<&str>> {
    page.lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"))
        .map(|line| line.split(" | ").map(str::trim).collect())
}

#[test]
fn status_codes_equal_the_specification() {
    let wire = page("wire.md");
    let section = wire.split("## 10. Status registry").nth(1).unwrap();
    let section = section.split("## 11.").next().unwrap();
    let told: BTreeSet<(u16, String, String, String)> = rows(section)
        .filter_map(|cells| match cells[..] {
            [number, name, class, meaning] => {
                let name = name.strip_prefix('`')?.strip_suffix('`')?;
                Some((
                    number.parse().ok()?,
                    name.into(),
                    class.into(),
                    meaning.into(),
                ))
            }
            _ => None,
        })
        .collect();
    let known: BTreeSet<(u16, String, String, String)> = Status::ALL
        .iter()
        .map(|status| {
            let class = status.retry().name().into();
            (
                status.number(),
                status.name().into(),
                class,
                status.meaning().into(),
            )
        })
        .collect();
    assert!(known.len() > 40, "the registry was read");
    assert_eq!(told, known);
}

#[test]
fn kinds_and_planes_equal_the_specification() {
    let messages = page("messages.md");
    let section = messages.split("## 1. All messages").nth(1).unwrap();
    let section = section.split("## 2.").next().unwrap();
    let mut told = BTreeSet::new();
    for cells in rows(section) {
        let [numbers, names, plane, ..] = cells[..] else {
            continue;
        };
        let names = names.split(", ").map(|name| name.trim_matches('`'));
        for (number, name) in numbers.split(", ").zip(names) {
            let Some(hex) = number.strip_prefix("0x") else {
                continue;
            };
            let number = u16::from_str_radix(hex, 16).unwrap();
            told.insert((number, name.to_owned(), plane.to_owned()));
        }
    }
    let known: BTreeSet<(u16, String, String)> = Kind::ALL
        .iter()
        .map(|kind| {
            let plane = match (kind.is_on(Plane::Control), kind.is_on(Plane::Data)) {
                (true, true) => "both",
                (true, false) => "control",
                (false, true) => "data",
                (false, false) => "none",
            };
            (kind.number(), kind.name().to_owned(), plane.to_owned())
        })
        .collect();
    assert_eq!(told, known);
    for kind in Kind::ALL {
        assert_eq!(Kind::from_number(kind.number()), Some(*kind));
    }
}
