//! H.264 levels: what a `level_idc` permits (ITU-T H.264 Table A-1) and which level a picture needs.

use crate::media::frame::Size;

/// One row of Table A-1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Level {
    /// As in `profile-level-id`; 9 is level 1b, which sorts where it belongs.
    pub idc: u8,
    /// MaxMBPS, macroblocks per second.
    pub macroblocks_per_second: u32,
    /// MaxFS, macroblocks per picture.
    pub macroblocks: u32,
    /// MaxBR, kbit/s.
    pub kbps: u32,
}

const fn row(idc: u8, macroblocks_per_second: u32, macroblocks: u32, kbps: u32) -> Level {
    Level { idc, macroblocks_per_second, macroblocks, kbps }
}

/// In rising order.
const LEVELS: [Level; 20] = [
    row(10, 1_485, 99, 64),
    row(9, 1_485, 99, 128),
    row(11, 3_000, 396, 192),
    row(12, 6_000, 396, 384),
    row(13, 11_880, 396, 768),
    row(20, 11_880, 396, 2_000),
    row(21, 19_800, 792, 4_000),
    row(22, 20_250, 1_620, 4_000),
    row(30, 40_500, 1_620, 10_000),
    row(31, 108_000, 3_600, 14_000),
    row(32, 216_000, 5_120, 20_000),
    row(40, 245_760, 8_192, 20_000),
    row(41, 245_760, 8_192, 50_000),
    row(42, 522_240, 8_704, 50_000),
    row(50, 589_824, 22_080, 135_000),
    row(51, 983_040, 36_864, 240_000),
    row(52, 2_073_600, 36_864, 240_000),
    row(60, 4_177_920, 139_264, 240_000),
    row(61, 8_355_840, 139_264, 480_000),
    row(62, 16_711_680, 139_264, 800_000),
];

/// Bit of profile_iop that turns level 1.1 into 1b for the Baseline, Main and Extended profiles (§7.4.2.1.1).
const CONSTRAINT_SET3: u8 = 0x10;

impl Level {
    /// The level of a `profile-level-id`. A number between two levels is the lower one.
    pub fn of([profile_idc, profile_iop, level_idc]: [u8; 3]) -> Level {
        let one_b = level_idc == 9
            || (level_idc == 11 && matches!(profile_idc, 66 | 77 | 88) && profile_iop & CONSTRAINT_SET3 != 0);
        let fits =
            |level: &&Level| if one_b { level.idc == 9 } else { level.idc != 9 && level.idc <= level_idc };
        LEVELS.iter().rev().find(fits).copied().unwrap_or(LEVELS[0])
    }

    /// The lowest level for pictures of this size and rate, but at least 3.1: every decoder here takes 720p, and
    /// some peers compare the number only.
    pub fn needed(size: Size, fps: u32) -> Level {
        let macroblocks = macroblocks(size);
        let per_second = macroblocks.saturating_mul(fps);
        let fits = |level: &&Level| {
            level.idc >= 31 && level.macroblocks >= macroblocks && level.macroblocks_per_second >= per_second
        };
        LEVELS.iter().find(fits).copied().unwrap_or(LEVELS[LEVELS.len() - 1])
    }

    /// The `profile-level-id` with this level in place of its own.
    pub fn put_into(self, id: [u8; 3]) -> [u8; 3] {
        let [profile_idc, profile_iop, _] = id;
        let was_one_b = Level::of(id).idc == 9;
        match self.idc {
            9 if was_one_b => id,
            9 if matches!(profile_idc, 66 | 77 | 88) => [profile_idc, profile_iop | CONSTRAINT_SET3, 11],
            idc if was_one_b => [profile_idc, profile_iop & !CONSTRAINT_SET3, idc],
            idc => [profile_idc, profile_iop, idc],
        }
    }

    /// The `level-id` of H.265 (RFC 7798 §7.1) for the same pictures: 30 times the number of the level.
    pub fn h265(self) -> u8 {
        match self.idc {
            ..=31 => 93,
            32..=40 => 120,
            41..=42 => 123,
            43..=50 => 150,
            51 => 153,
            52 => 156,
            53..=60 => 180,
            61 => 183,
            62.. => 186,
        }
    }

    /// The lower of two.
    pub fn min(self, other: Level) -> Level {
        let place = |level: Level| LEVELS.iter().position(|row| *row == level);
        if place(self) <= place(other) { self } else { other }
    }
}

fn macroblocks(size: Size) -> u32 {
    let count = size.width.div_ceil(16).saturating_mul(size.height.div_ceil(16));
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn level_1b_is_written_in_two_ways() {
        assert_eq!(Level::of([0x42, 0xf0, 11]).kbps, 128);
        assert_eq!(Level::of([0x64, 0x00, 9]).kbps, 128);
        assert_eq!(Level::of([0x42, 0xe0, 11]).kbps, 192);
        assert_eq!(Level::of([0x64, 0x10, 11]).kbps, 192);
    }

    #[test]
    fn unknown_levels_are_taken_as_the_one_below() {
        assert_eq!(Level::of([0x42, 0xe0, 35]).idc, 32);
        assert_eq!(Level::of([0x42, 0xe0, 0]).idc, 10);
        assert_eq!(Level::of([0x42, 0xe0, 255]).idc, 62);
    }

    #[test]
    fn a_picture_gets_the_lowest_level_that_holds_it() {
        assert_eq!(Level::needed(Size::new(640, 360), 15).idc, 31);
        assert_eq!(Level::needed(Size::new(1280, 720), 30).idc, 31);
        assert_eq!(Level::needed(Size::new(1280, 720), 60).idc, 32);
        assert_eq!(Level::needed(Size::new(1920, 1080), 30).idc, 40);
        assert_eq!(Level::needed(Size::new(100_000, 100_000), u32::MAX).idc, 62);
    }

    #[test]
    fn a_level_is_put_into_an_id_with_its_1b_bit_right() {
        let one_b = [0x42, 0xf0, 11];
        assert_eq!(Level::of([0x42, 0xe0, 0x1f]).put_into(one_b), [0x42, 0xe0, 0x1f]);
        assert_eq!(Level::of(one_b).put_into([0x42, 0xe0, 0x1f]), one_b);
        let lower = Level::of([0x42, 0xe0, 0x1f]).min(Level::of(one_b));
        assert_eq!(lower.put_into(one_b), one_b);
    }
}
