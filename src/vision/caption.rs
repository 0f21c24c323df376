//! Words on the outgoing picture: what the caller and the agent say, as lines at the bottom for some seconds, and a notice
//! at the top.
//!
//! Pure. Words become lines when they change, and again when the picture's width does; drawing takes the lines as they
//! are. Scripts the typeface lacks show as empty boxes, as everywhere in pictures.

use std::time::{Duration, Instant};

use crate::media::codec::Rect;
use crate::media::frame::{FrameMut, Size};
use crate::vision::paint::{Area, Color, shade};
use crate::vision::text::Typeface;

/// Letters of one saying that are kept: the last ones.
const TEXT_MAX: usize = 600;
/// Lines of each at a time.
const CALLER_LINES: usize = 2;
const AGENT_LINES: usize = 3;
const NOTICE_LINES: usize = 3;
/// What does not fit goes up at the pace of speech, letters a second.
const PACE: f64 = 15.0;
/// Nobody reads faster.
const READ: Duration = Duration::from_secs(4);
/// A line's height as a share of the picture's, and in pixels.
const SIZE: f32 = 0.055;
const HEIGHT: std::ops::RangeInclusive<usize> = 12..=48;
/// Share of the picture's width that is left free on each side.
const MARGIN: f32 = 0.04;

const CALLER: Color = Color::rgb(255, 224, 130);
const AGENT: Color = Color::WHITE;

/// Whose words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Caller,
    Agent,
}

#[derive(Clone, Debug)]
struct Saying {
    text: String,
    began: Instant,
    until: Instant,
}

/// What is written on one call's picture.
#[derive(Clone, Debug, Default)]
pub struct Captions {
    on: bool,
    caller: Option<Saying>,
    agent: Option<Saying>,
    notice: Option<Saying>,
}

/// Lines for a picture of one width, and when they are to be made anew without anything being said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    pub notice: Vec<String>,
    pub lines: Vec<(Who, String)>,
    pub until: Option<Instant>,
}

impl Page {
    pub fn is_empty(&self) -> bool {
        self.notice.is_empty() && self.lines.is_empty()
    }
}

impl Captions {
    pub fn new(on: bool) -> Self {
        Captions { on, ..Captions::default() }
    }

    /// Whether what is said is written. A notice is in any case.
    pub fn set_on(&mut self, on: bool) {
        self.on = on;
    }

    pub fn is_on(&self) -> bool {
        self.on
    }

    /// All of what one of them is saying, so far; whatever it said before gives way. `true`: something else is to be
    /// shown.
    pub fn said(&mut self, now: Instant, who: Who, text: &str) -> bool {
        let text = kept(text);
        let slot = match who {
            Who::Caller => &mut self.caller,
            Who::Agent => &mut self.agent,
        };
        if text.is_empty() || slot.as_ref().is_some_and(|saying| saying.text == text && now < saying.until) {
            return false;
        }
        // The same words and more are the same saying.
        let began = slot.as_ref().filter(|saying| text.starts_with(&saying.text) && now < saying.until);
        let began = began.map_or(now, |saying| saying.began);
        let spoken = Duration::from_secs_f64(text.chars().count() as f64 / PACE);
        *slot = Some(Saying { until: (began + spoken).max(now) + READ, text, began });
        self.on
    }

    /// A notice at the top until then; an empty one goes.
    pub fn notice(&mut self, now: Instant, text: &str, until: Instant) {
        let text = kept(text);
        self.notice = (!text.is_empty()).then_some(Saying { text, began: now, until });
    }

    /// What is to be read now, in lines of at most `columns` letters.
    pub fn page(&self, now: Instant, columns: usize) -> Page {
        let columns = columns.max(8);
        let mut page = Page::default();
        let mut again = |at: Instant| page.until = Some(page.until.map_or(at, |until| until.min(at)));
        if let Some(notice) = self.notice.as_ref().filter(|notice| now < notice.until) {
            again(notice.until);
            page.notice = wrapped(&notice.text, columns);
            page.notice.truncate(NOTICE_LINES);
        }
        let sayings = [(Who::Caller, &self.caller, CALLER_LINES), (Who::Agent, &self.agent, AGENT_LINES)];
        for (who, saying, rows) in sayings {
            let Some(saying) = saying.as_ref().filter(|saying| self.on && now < saying.until) else {
                continue;
            };
            let all = wrapped(&saying.text, columns);
            let most = all.len().saturating_sub(rows);
            let first = match who {
                // What the caller said is known only when it was said.
                Who::Caller => most,
                Who::Agent => {
                    let line = Duration::from_secs_f64(columns as f64 / PACE);
                    let passed = now.saturating_duration_since(saying.began);
                    let spoken = (passed.as_secs_f64() / line.as_secs_f64()) as usize;
                    let first = (spoken + 1).saturating_sub(rows).min(most);
                    if first < most {
                        again(saying.began + line * u32::try_from(first + rows).unwrap_or(u32::MAX));
                    }
                    first
                }
            };
            again(saying.until);
            page.lines.extend(all.into_iter().skip(first).take(rows).map(|line| (who, line)));
        }
        page
    }
}

/// One line of plain letters, the last of them.
fn kept(text: &str) -> String {
    let text: Vec<&str> = text.split_whitespace().collect();
    let text: String = text.join(" ").chars().filter(|letter| !letter.is_control()).collect();
    let over = text.chars().count().saturating_sub(TEXT_MAX);
    text.chars().skip(over).collect()
}

/// Lines of at most `columns` letters, broken between words where that is possible.
fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut free = 0;
    for word in text.split(' ') {
        let mut letters: Vec<char> = word.chars().collect();
        if letters.len() < free
            && let Some(line) = lines.last_mut()
        {
            line.push(' ');
            line.extend(&letters);
            free -= letters.len() + 1;
            continue;
        }
        while letters.len() > columns {
            let rest = letters.split_off(columns);
            lines.push(letters.into_iter().collect());
            letters = rest;
        }
        free = columns - letters.len();
        lines.push(letters.into_iter().collect());
    }
    lines
}

/// How words are set on pictures of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    size: Size,
    /// Of a line, in pixels.
    height: usize,
    advance: usize,
    pub columns: usize,
}

impl Setting {
    pub fn new(size: Size, face: &Typeface) -> Setting {
        let height = ((size.height as f32 * SIZE) as usize).clamp(*HEIGHT.start(), *HEIGHT.end());
        let advance = face.advance(height);
        let room = size.width.saturating_sub(2 * margin(size));
        Setting { size, height, advance, columns: (room / advance.max(1)).clamp(1, 200) }
    }

    pub fn fits(&self, size: Size) -> bool {
        self.size == size
    }

    /// Writes the page: light letters on darkened lines.
    pub fn draw(&self, picture: &mut FrameMut, face: &mut Typeface, page: &Page) {
        let step = self.height + self.height / 4;
        let edge = self.height / 2;
        for (row, line) in page.notice.iter().enumerate() {
            self.line(picture, face, edge + row * step, AGENT, line);
        }
        let top = self.size.height.saturating_sub(edge + page.lines.len() * step);
        for (row, (who, line)) in page.lines.iter().enumerate() {
            let color = match who {
                Who::Caller => CALLER,
                Who::Agent => AGENT,
            };
            self.line(picture, face, top + row * step, color, line);
        }
    }

    fn line(&self, picture: &mut FrameMut, face: &mut Typeface, y: usize, color: Color, line: &str) {
        let width = line.chars().count() * self.advance;
        let x = self.size.width.saturating_sub(width) / 2;
        let pad = self.height / 3;
        let rect = Rect {
            x1: x.saturating_sub(pad) as f32,
            y1: y.saturating_sub(self.height / 8) as f32,
            x2: (x + width + pad) as f32,
            y2: (y + self.height + self.height / 8) as f32,
        };
        if let Some(area) = Area::covering(picture.size(), &rect) {
            shade(picture, area);
        }
        face.draw(picture, x as i32, y as i32, self.height, color, line);
    }
}

fn margin(size: Size) -> usize {
    (size.width as f32 * MARGIN) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::Pts;
    use crate::media::frame::Plane;
    use crate::media::pool::FramePool;

    fn lines(captions: &Captions, now: Instant, columns: usize) -> Vec<String> {
        captions.page(now, columns).lines.into_iter().map(|(_, line)| line).collect()
    }

    #[test]
    fn words_are_broken_between_words_and_long_ones_anywhere() {
        assert_eq!(wrapped("the quick brown fox", 9), ["the quick", "brown fox"]);
        assert_eq!(wrapped("the quick brown fox", 8), ["the", "quick", "brown", "fox"]);
        assert_eq!(wrapped("a Donaudampfschiff is", 8), ["a", "Donaudam", "pfschiff", "is"]);
        assert_eq!(wrapped("größer", 3), ["grö", "ßer"]);
    }

    #[test]
    fn what_is_said_is_read_for_some_seconds_and_then_gone() {
        let start = Instant::now();
        let mut captions = Captions::new(true);
        assert!(captions.said(start, Who::Caller, "What do\nyou see?"));
        assert!(!captions.said(start, Who::Caller, "What do you see?"), "nothing new");
        assert!(captions.said(start, Who::Agent, "A parcel."));
        assert_eq!(lines(&captions, start, 40), ["What do you see?", "A parcel."]);
        let until = captions.page(start, 40).until.expect("an end");
        assert!(until > start + Duration::from_secs(3) && until < start + Duration::from_secs(7));
        assert_eq!(lines(&captions, start + Duration::from_secs(7), 40), [""; 0]);
        captions.set_on(false);
        captions.notice(start, "You talk to a machine.", start + Duration::from_secs(10));
        let page = captions.page(start + Duration::from_secs(9), 40);
        assert_eq!((page.notice.len(), page.lines.len()), (1, 0));
        assert!(captions.page(start + Duration::from_secs(10), 40).is_empty());
    }

    #[test]
    fn a_long_reply_goes_up_at_the_pace_of_speech() {
        let start = Instant::now();
        let mut captions = Captions::new(true);
        let text: Vec<String> = (0..12).map(|n| format!("line number {n:02}")).collect();
        captions.said(start, Who::Agent, &text.join(" "));
        let at = |ms: u64| lines(&captions, start + Duration::from_millis(ms), 14);
        assert_eq!(at(0), text[..3]);
        assert_eq!(at(6_000), text[4..7]);
        assert_eq!(at(12_500), text[9..12], "its end stays to be read");
        let page = captions.page(start, 14);
        assert!(page.until.is_some_and(|at| at > start && at < start + Duration::from_secs(4)));
        // The caller's words come when they were said: the last lines.
        captions.said(start, Who::Caller, &text.join(" "));
        assert_eq!(at_caller(&captions, start), text[10..]);
    }

    fn at_caller(captions: &Captions, now: Instant) -> Vec<String> {
        let lines = captions.page(now, 14).lines.into_iter();
        lines.filter(|(who, _)| *who == Who::Caller).map(|(_, line)| line).collect()
    }

    #[test]
    fn nobody_can_flood_the_picture() {
        let mut captions = Captions::new(true);
        captions.said(Instant::now(), Who::Agent, &"x".repeat(100_000));
        let page = captions.page(Instant::now(), 30);
        assert!(page.lines.len() <= AGENT_LINES && page.lines.iter().all(|(_, line)| line.len() <= 30));
    }

    #[test]
    fn the_words_stand_at_the_bottom_and_the_notice_at_the_top() {
        let pool = FramePool::new(1);
        let mut picture = pool.take_sized(Size::new(640, 360), Pts::ZERO).expect("room");
        picture.bytes_mut().fill(128);
        let mut face = Typeface::new();
        let setting = Setting::new(picture.size(), &face);
        let now = Instant::now();
        let mut captions = Captions::new(true);
        captions.said(now, Who::Agent, "A parcel.");
        setting.draw(&mut picture, &mut face, &captions.page(now, setting.columns));
        let touched = |picture: &FrameMut, rows: std::ops::Range<usize>| {
            picture.plane(Plane::Y)[rows.start * 640..rows.end * 640].iter().any(|luma| *luma != 128)
        };
        assert!(touched(&picture, 320..360) && !touched(&picture, 0..320));
        captions.notice(now, "A machine.", now + Duration::from_secs(1));
        setting.draw(&mut picture, &mut face, &captions.page(now, setting.columns));
        assert!(touched(&picture, 0..40) && !touched(&picture, 60..300));
    }

    /// What each outgoing picture pays for a full page; the best of many, as other tests run beside this one.
    #[test]
    fn writing_costs_far_less_than_the_time_of_a_picture() {
        let pool = FramePool::new(1);
        for size in [Size::new(640, 360), Size::new(1280, 720)] {
            let mut picture = pool.take_sized(size, Pts::ZERO).expect("room");
            picture.bytes_mut().fill(90);
            let mut face = Typeface::new();
            let setting = Setting::new(size, &face);
            let mut captions = Captions::new(true);
            let now = Instant::now();
            for who in [Who::Caller, Who::Agent] {
                captions.said(now, who, &"What do you see in this picture? ".repeat(10));
            }
            let page = captions.page(now, setting.columns);
            let mut times: Vec<u128> = (0..50)
                .map(|_| {
                    let began = Instant::now();
                    setting.draw(&mut picture, &mut face, &page);
                    began.elapsed().as_micros()
                })
                .collect();
            times.sort_unstable();
            println!(
                "{size}: {} us at best, {} us in the middle, {} lines",
                times[0],
                times[25],
                page.lines.len()
            );
            assert!(times[0] < 5_000, "{size}: {times:?} us");
        }
    }
}
