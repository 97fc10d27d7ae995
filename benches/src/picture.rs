//! Curves beside their limits, as SVG: above the throughput, below the processor time for a GiB, over
//! the same steps. Text is text, and the same figures give the same bytes. The ground is white, so
//! that a page may be dark.

use std::io;

use plotters::coord::Shift;
use plotters::element::{Circle, PathElement};
use plotters::prelude::*;
use plotters::series::{DashedLineSeries, LineSeries};
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::measure::Series;

/// Its width and height.
const SIZE: (u32, u32) = (900, 760);

/// Height of what stands above the panels.
const HEAD: u32 = 76;

/// What is plotted of Sarsen, and the limit beside it, have one colour: these, in turn. Told apart
/// also by who sees red and green alike.
const COLOURS: [RGBColor; 3] = [
    RGBColor(0, 90, 181),
    RGBColor(200, 70, 20),
    RGBColor(60, 130, 90),
];

/// A picture.
#[derive(Clone, Debug, Default)]
pub struct Picture {
    /// What it shows.
    pub title: String,
    /// On what machine, and how.
    pub subtitle: String,
    /// What changes from step to step.
    pub steps_name: String,
    /// The steps, as words.
    pub steps: Vec<String>,
    /// The curves.
    pub curves: Vec<Curve>,
}

/// A curve: a figure of Sarsen, or a limit.
#[derive(Clone, Debug)]
pub struct Curve {
    /// What it is of.
    pub name: String,
    /// Which colour it has: that of what it belongs to.
    pub colour: usize,
    /// Whether it is a limit: then it is dashed.
    pub is_limit: bool,
    /// Megabytes a second, one a step.
    pub rates: Vec<f64>,
    /// Processor seconds for a GiB, one a step.
    pub cpu: Vec<f64>,
}

impl Curve {
    /// A curve without points.
    #[must_use]
    pub fn new(name: &str, colour: usize, is_limit: bool) -> Self {
        Self {
            name: name.to_owned(),
            colour,
            is_limit,
            rates: Vec::new(),
            cpu: Vec::new(),
        }
    }

    /// The medians of the next step.
    pub fn push(&mut self, series: &Series) {
        self.rates.push(series.per_second() / 1e6);
        self.cpu.push(series.cpu_per_gib().unwrap_or(f64::NAN));
    }

    /// The next step has no point: there the curve says nothing.
    pub fn skip(&mut self) {
        self.rates.push(f64::NAN);
        self.cpu.push(f64::NAN);
    }

    fn colour(&self) -> RGBColor {
        *COLOURS
            .get(self.colour % COLOURS.len())
            .unwrap_or(&plotters::style::BLACK)
    }
}

/// A picture that can't be drawn.
#[derive(Debug, thiserror::Error)]
#[error("drawing a picture")]
pub struct PictureError(#[from] DrawingAreaErrorKind<io::Error>);

type Drawn = Result<(), DrawingAreaErrorKind<io::Error>>;

/// One of the two panels.
struct Panel {
    unit: &'static str,
    points: fn(&Curve) -> &[f64],
    names: bool,
}

impl Picture {
    /// The picture as SVG.
    ///
    /// # Errors
    /// When the library can't draw it.
    pub fn svg(&self) -> Result<String, PictureError> {
        let mut svg = String::new();
        self.draw(&mut svg)?;
        Ok(svg)
    }

    fn draw(&self, svg: &mut String) -> Drawn {
        let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        area.draw_text(&self.title, &text(24, FontStyle::Bold), (24, 18))?;
        area.draw_text(&self.subtitle, &text(14, FontStyle::Normal), (24, 50))?;
        let (_, panels) = area.split_vertically(HEAD);
        let (above, below) = panels.split_vertically((SIZE.1 - HEAD) * 6 / 11);
        let rates = Panel {
            unit: "MB/s",
            points: |curve| &curve.rates,
            names: true,
        };
        let cpu = Panel {
            unit: "CPU seconds per GiB, all processes",
            points: |curve| &curve.cpu,
            names: false,
        };
        self.panel(&above, &rates)?;
        self.panel(&below, &cpu)?;
        area.present()?;
        drop((above, below, panels));
        Ok(())
    }

    fn panel<'a>(&self, area: &DrawingArea<SVGBackend<'a>, Shift>, panel: &Panel) -> Drawn {
        let points = self.curves.iter().flat_map(|curve| (panel.points)(curve));
        let highest = points.copied().filter(|it| it.is_finite());
        // Room above for the names of the curves.
        let room = if panel.names { 1.5 } else { 1.1 };
        let top = highest.fold(f64::MIN_POSITIVE, f64::max) * room;
        let last = self.steps.len().saturating_sub(1) as f64;
        let mut chart = ChartBuilder::on(area)
            .margin(16)
            .margin_right(32)
            .x_label_area_size(52)
            .y_label_area_size(76)
            .build_cartesian_2d(-0.15..last + 0.15, 0.0..top)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(RGBColor(220, 220, 220))
            .axis_style(RGBColor(90, 90, 90))
            .label_style(text(14, FontStyle::Normal))
            .axis_desc_style(text(15, FontStyle::Normal))
            .x_desc(&self.steps_name)
            .y_desc(panel.unit)
            .x_labels(0)
            .y_labels(6)
            .y_label_formatter(&|value| shown(*value))
            .draw()?;
        self.name_steps(area, &chart)?;
        for curve in &self.curves {
            let colour = curve.colour();
            let points = || {
                let places = (0..).map(f64::from);
                let points = places.zip((panel.points)(curve).iter().copied());
                points.filter(|(_, value)| value.is_finite())
            };
            if curve.is_limit {
                let line = DashedLineSeries::new(points(), 6, 5, colour.stroke_width(2));
                let drawn = chart.draw_series(line)?;
                let key =
                    move |(x, y)| PathElement::new([(x, y), (x + 9, y)], colour.stroke_width(2));
                drawn.label(&curve.name).legend(key);
            } else {
                let line = LineSeries::new(points(), colour.stroke_width(3));
                let drawn = chart.draw_series(line)?;
                let key =
                    move |(x, y)| PathElement::new([(x, y), (x + 22, y)], colour.stroke_width(3));
                drawn.label(&curve.name).legend(key);
                chart.draw_series(points().map(|at| Circle::new(at, 4, colour.filled())))?;
            }
        }
        if panel.names {
            chart
                .configure_series_labels()
                .position(SeriesLabelPosition::UpperLeft)
                .legend_area_size(30)
                .margin(8)
                .label_font(text(14, FontStyle::Normal))
                .background_style(WHITE)
                .draw()?;
        }
        Ok(())
    }

    /// The steps below the axis: they are words, and no numbers at even distances.
    fn name_steps<'a>(
        &self,
        area: &DrawingArea<SVGBackend<'a>, Shift>,
        chart: &Chart<'a, '_>,
    ) -> Drawn {
        let below = text(14, FontStyle::Normal).pos(Pos::new(HPos::Center, VPos::Top));
        let base = area.get_base_pixel();
        for (step, place) in self.steps.iter().zip((0..).map(f64::from)) {
            let (x, y) = chart.backend_coord(&(place, 0.0));
            area.draw_text(step, &below, (x - base.0, y - base.1 + 8))?;
        }
        Ok(())
    }
}

type Chart<'a, 'b> = ChartContext<
    'b,
    SVGBackend<'a>,
    Cartesian2d<plotters::coord::types::RangedCoordf64, plotters::coord::types::RangedCoordf64>,
>;

fn text(size: u32, style: FontStyle) -> TextStyle<'static> {
    TextStyle::from(("sans-serif", size, style).into_font()).color(&RGBColor(30, 30, 30))
}

/// A number at an axis: no more digits than it has.
fn shown(value: f64) -> String {
    match value.fract().abs() < 1e-9 {
        true => format!("{value:.0}"),
        false => format!("{value:.1}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture() -> Picture {
        let curve = |name: &str, is_limit, rates: &[f64]| Curve {
            rates: rates.to_vec(),
            cpu: vec![2.5, 2.0],
            ..Curve::new(name, 0, is_limit)
        };
        Picture {
            title: "Throughput & cost".to_owned(),
            subtitle: "a machine".to_owned(),
            steps_name: "file size".to_owned(),
            steps: vec!["1 MiB".to_owned(), "1 GiB".to_owned()],
            curves: vec![
                curve("upload", false, &[400.0, 800.0]),
                curve("relay", true, &[f64::NAN, 900.0]),
            ],
        }
    }

    #[test]
    fn all_words_are_text_and_the_same_figures_are_the_same_bytes() {
        let svg = picture().svg().expect("drawn");
        for word in [
            "Throughput &amp; cost",
            "a machine",
            "file size",
            "1 MiB",
            "1 GiB",
            "upload",
            "relay",
            "MB/s",
            "CPU seconds per GiB",
        ] {
            assert!(svg.contains(word), "{word} is missing");
        }
        assert_eq!(svg, picture().svg().expect("drawn"));
    }

    /// A step that a curve has no point for was drawn as a line from the corner.
    #[test]
    fn a_step_without_a_point_is_left_out() {
        let drawn_after = |steps: &[Option<f64>]| {
            let mut picture = picture();
            let mut curve = Curve::new("relay", 0, false);
            for step in steps {
                curve.skip();
                if let (Some(rate), Some(last)) = (step, curve.rates.last_mut()) {
                    *last = *rate;
                }
            }
            picture.curves = vec![curve];
            picture.svg().expect("drawn").matches("<circle").count()
        };
        assert_eq!(drawn_after(&[None, Some(900.0)]), 1);
        assert_eq!(drawn_after(&[Some(800.0), Some(900.0)]), 2);
    }

    #[test]
    fn nothing_is_a_picture_too() {
        assert!(Picture::default().svg().is_ok());
    }
}
