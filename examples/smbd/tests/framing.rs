//! Framing does not depend on how the stream is cut.

use proptest::prelude::*;
use smbd::transport::{FRAME_HEADER_LEN, FrameError, FrameReader, MAX_MESSAGE_LEN, finish_frame};

/// Feeds `stream` in pieces of the lengths of `cuts`, over and over.
fn messages(stream: &[u8], cuts: &[usize]) -> (Vec<Vec<u8>>, Option<FrameError>) {
    let mut reader = FrameReader::new();
    let mut found = Vec::new();
    let mut rest = stream;
    let mut cuts = cuts.iter().cycle();
    while !rest.is_empty() {
        let spare = reader.spare();
        assert!(!spare.is_empty());
        let n = (*cuts.next().unwrap()).min(spare.len()).min(rest.len());
        spare[..n].copy_from_slice(&rest[..n]);
        reader.filled(n);
        rest = &rest[n..];
        loop {
            match reader.next_message() {
                Ok(Some(message)) => found.push(message.to_vec()),
                Ok(None) => break,
                Err(error) => return (found, Some(error)),
            }
        }
    }
    (found, None)
}

fn frame(message: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; FRAME_HEADER_LEN];
    frame.extend(message);
    finish_frame(&mut frame);
    frame
}

proptest! {
    #[test]
    fn chunks_make_no_difference(
        lengths in prop::collection::vec(64..70_000usize, 0..8),
        keepalives in any::<bool>(),
        cuts in prop::collection::vec(1..10_000usize, 1..5),
    ) {
        let expected: Vec<Vec<u8>> =
            lengths.iter().map(|&n| (0..n).map(|i| (i * 7 + n) as u8).collect()).collect();
        let mut stream = Vec::new();
        for message in &expected {
            stream.extend(frame(message));
            if keepalives {
                stream.extend([0x85, 0, 0, 0]);
            }
        }
        prop_assert_eq!(messages(&stream, &cuts), (expected, None));
    }

    #[test]
    fn arbitrary_bytes_end_the_same_however_cut(
        stream in prop::collection::vec(prop_oneof![Just(0u8), Just(0x85), any::<u8>()], 0..300),
        cuts in prop::collection::vec(1..20usize, 1..5),
    ) {
        prop_assert_eq!(messages(&stream, &cuts), messages(&stream, &[usize::MAX]));
    }
}

#[test]
fn a_byte_at_a_time_is_enough() {
    let stream = [frame(&[1; 64]), frame(&[2; 300])].concat();
    assert_eq!(
        messages(&stream, &[1]),
        (vec![vec![1; 64], vec![2; 300]], None)
    );
}

#[test]
fn the_longest_message_passes_and_a_longer_one_does_not() {
    let longest = vec![3; MAX_MESSAGE_LEN];
    let stream = [frame(&longest), frame(&[4; 64])].concat();
    let (found, error) = messages(&stream, &[100_000]);
    assert!(found == [longest, vec![4; 64]] && error.is_none());
    let (_, error) = messages(&frame(&vec![3; MAX_MESSAGE_LEN + 1]), &[4]);
    assert_eq!(error, Some(FrameError::TooLong(MAX_MESSAGE_LEN + 1)));
}

#[test]
fn an_smb1_negotiate_may_be_shorter_than_an_smb2_header() {
    let smb1 = [b"\xFFSMB", &[0; 36][..]].concat();
    assert_eq!(messages(&frame(&smb1), &[5]), (vec![smb1], None));
    let other = [b"\xFESMB", &[0; 36][..]].concat();
    assert_eq!(
        messages(&frame(&other), &[5]).1,
        Some(FrameError::TooShort(40))
    );
}

#[test]
fn released_memory_comes_back_on_demand() {
    let mut reader = FrameReader::new();
    for _ in 0..2 {
        let frame = frame(&[5; 100]);
        reader.spare()[..frame.len()].copy_from_slice(&frame);
        reader.filled(frame.len() - 1);
        reader.release();
        assert!(
            reader.is_mid_message(),
            "release must not drop half a message"
        );
        reader.filled(1);
        let message = reader.next_message().unwrap().unwrap();
        assert_eq!(message[..], [5; 100]);
        reader.release();
        assert!(!reader.is_mid_message());
    }
}
