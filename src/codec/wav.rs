//! RIFF WAVE files with 16-bit mono PCM, read as they arrive and written whole.
//!
//! Other sample formats do not belong here: FFmpeg reads them.

/// What stands before the sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Hz.
    pub rate: u32,
    /// The sound's first byte.
    pub begins: usize,
    /// Bytes of sound, as the file says: one that is still being written says too much.
    pub length: usize,
}

/// Longest header looked through for the sound.
const HEADER_MAX: usize = 64 << 10;

/// Whether bytes begin as such a file does; `None`: too few to say.
pub fn is_wav(start: &[u8]) -> Option<bool> {
    const MARK: &[u8] = b"RIFF";
    let seen = start.get(..MARK.len()).unwrap_or(start);
    if MARK.starts_with(seen) { (seen == MARK).then_some(true) } else { Some(false) }
}

/// Reads what stands before the sound. `None`: it has not come to its end.
pub fn header(wav: &[u8]) -> Result<Option<Header>, &'static str> {
    let Some((start, _)) = wav.split_first_chunk::<12>() else { return Ok(None) };
    if !matches!(start, [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'A', b'V', b'E']) {
        return Err("not a WAV file");
    }
    let (mut at, mut rate) = (12, None);
    while let Some((header, body)) = wav.get(at..).and_then(|rest| rest.split_first_chunk::<8>()) {
        let (name, length) = header.split_at(4);
        let length = length.try_into().map_or(0, u32::from_le_bytes) as usize;
        match (name, body) {
            (b"data", _) => {
                let rate = rate.ok_or("sound before its format")?;
                return Ok(Some(Header { rate, begins: at + 8, length }));
            }
            (b"fmt ", [1, 0, 1, 0, a, b, c, d, _, _, _, _, _, _, 16, 0, ..]) => {
                rate = Some(u32::from_le_bytes([*a, *b, *c, *d]));
            }
            (b"fmt ", [_, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, ..]) => {
                return Err("not 16-bit mono PCM");
            }
            _ => {}
        }
        // Chunks are padded to an even length.
        at = at.saturating_add(8).saturating_add(length).saturating_add(length & 1);
        if at > HEADER_MAX {
            return Err("no sound in the WAV file");
        }
    }
    Ok(None)
}

/// Rate and samples of a whole file, whose lengths may be those of an unfinished stream.
pub fn read(wav: &[u8]) -> Result<(u32, Vec<i16>), &'static str> {
    let header = header(wav)?.ok_or("no sound in the WAV file")?;
    let sound = wav.get(header.begins..).unwrap_or_default();
    let sound = sound.get(..header.length).unwrap_or(sound);
    Ok((header.rate, sound.as_chunks::<2>().0.iter().map(|pair| i16::from_le_bytes(*pair)).collect()))
}

/// The file of these samples.
pub fn write(rate: u32, samples: &[i16]) -> Vec<u8> {
    let bytes = u32::try_from(samples.len() * 2).unwrap_or(u32::MAX - 36);
    let mut wav = Vec::with_capacity(44 + samples.len() * 2);
    wav.extend_from_slice(b"RIFF");
    wav.extend_from_slice(&(bytes + 36).to_le_bytes());
    wav.extend_from_slice(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    wav.extend_from_slice(&rate.to_le_bytes());
    wav.extend_from_slice(&rate.saturating_mul(2).to_le_bytes());
    wav.extend_from_slice(&[2, 0, 16, 0]);
    wav.extend_from_slice(b"data");
    wav.extend_from_slice(&bytes.to_le_bytes());
    wav.extend(samples.iter().flat_map(|sample| sample.to_le_bytes()));
    wav
}

#[cfg(test)]
mod tests {
    use super::*;

    fn streamed(rate: u32, data_length: u32, samples: &[i16]) -> Vec<u8> {
        let mut out = b"RIFF\xff\xff\xff\x7fWAVEfmt \x10\0\0\0\x01\0\x01\0".to_vec();
        out.extend(rate.to_le_bytes());
        out.extend((rate * 2).to_le_bytes());
        out.extend([2, 0, 16, 0]);
        out.extend(b"LIST\x03\0\0\0abc\0data");
        out.extend(data_length.to_le_bytes());
        out.extend(samples.iter().flat_map(|s| s.to_le_bytes()));
        out
    }

    #[test]
    fn a_stream_of_unknown_length_is_read_to_its_end() {
        assert_eq!(read(&streamed(22_050, 0x7fff_f000, &[1, -2, 3])), Ok((22_050, vec![1, -2, 3])));
        assert_eq!(read(&streamed(8_000, 4, &[1, -2, 3])), Ok((8_000, vec![1, -2])));
        assert!(read(b"RIFF").is_err());
        let whole = streamed(8_000, 4, &[1]);
        for cut in 0..56 {
            assert_eq!(header(&whole[..cut]), Ok(None), "{cut}");
        }
        assert_eq!(header(&whole), Ok(Some(Header { rate: 8_000, begins: 56, length: 4 })));
    }

    #[test]
    fn what_is_written_reads_back() {
        assert_eq!(read(&write(16_000, &[0, 1, -1, i16::MIN])), Ok((16_000, vec![0, 1, -1, i16::MIN])));
        assert_eq!(write(8_000, &[]).len(), 44);
    }

    #[test]
    fn anything_else_is_refused() {
        let mut stereo = write(8_000, &[1]);
        stereo[22] = 2;
        assert_eq!(read(&stereo), Err("not 16-bit mono PCM"));
        assert!(header(b"ID3 and much more").is_err());
        assert_eq!(
            (is_wav(b"RI"), is_wav(b"RIFF..."), is_wav(b"\0\x01"), is_wav(b"")),
            (None, Some(true), Some(false), None)
        );
        let mut endless = write(8_000, &[]);
        endless[36..40].copy_from_slice(b"junk");
        endless[40..44].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(header(&endless).is_err());
    }
}
