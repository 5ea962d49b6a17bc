//! Frames over a pipe: limits, ends, cancellation.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
use wayfare_net::frames::FRAME_HEADER_BYTES;
use wayfare_net::{FrameError, FrameReader, FrameWriter};

#[tokio::test]
async fn frames_keep_their_bounds_and_order() {
    let (near, far) = duplex(64);
    let mut writer = FrameWriter::new(near, 1000);
    let frames: Vec<Vec<u8>> = (0..20_u8).map(|n| vec![n; usize::from(n) * 50]).collect();
    let sent = frames.clone();
    let sending = tokio::spawn(async move {
        for frame in &sent {
            writer.feed(frame).await.unwrap();
        }
        writer.finish().await.unwrap();
    });
    let mut reader = FrameReader::new(far, 1000);
    for frame in &frames {
        assert_eq!(reader.read().await.unwrap(), frame);
    }
    assert!(matches!(reader.read().await, Err(FrameError::Closed)));
    sending.await.unwrap();
}

#[tokio::test]
async fn several_frames_leave_with_one_flush() {
    let (near, far) = duplex(1024);
    let mut writer = FrameWriter::new(near, 100);
    writer.feed(b"one").await.unwrap();
    writer.feed(b"two").await.unwrap();
    let mut reader = FrameReader::new(far, 100);
    {
        let mut read = pin!(reader.read());
        assert!(poll_fn(|context| Poll::Ready(read.as_mut().poll(context).is_pending())).await);
    }
    writer.flush().await.unwrap();
    assert_eq!(reader.read().await.unwrap(), "one".as_bytes());
    assert_eq!(reader.read().await.unwrap(), "two".as_bytes());
}

/// Were the 4 GiB reserved, the cap on address space (or memory) would end the test; the error also comes before any
/// byte of the body.
#[tokio::test]
async fn a_frame_beyond_the_cap_is_refused_before_it_is_read() {
    let (mut near, far) = duplex(64);
    near.write_all(&u32::MAX.to_le_bytes()).await.unwrap();
    let mut reader = FrameReader::new(far, 4096);
    for _ in 0..2 {
        let refused = reader.read().await;
        assert!(matches!(refused, Err(FrameError::TooLarge { len: 0xffff_ffff, cap: 4096 })), "{refused:?}");
    }
}

#[tokio::test]
async fn a_writer_refuses_what_the_reader_would_and_goes_on() {
    let (near, far) = duplex(64);
    let mut writer = FrameWriter::new(near, 3);
    assert!(matches!(writer.send(b"four").await, Err(FrameError::TooLarge { len: 4, cap: 3 })));
    writer.send(b"abc").await.unwrap();
    assert_eq!(FrameReader::new(far, 3).read().await.unwrap(), "abc".as_bytes());
}

#[tokio::test]
async fn an_end_within_a_frame_is_told_from_an_end_between_frames() {
    for sent in 1..FRAME_HEADER_BYTES + 5 {
        let (mut near, far) = duplex(64);
        let mut bytes = 5_u32.to_le_bytes().to_vec();
        bytes.extend_from_slice(b"hello");
        near.write_all(&bytes[..sent]).await.unwrap();
        drop(near);
        let result = FrameReader::new(far, 100).read().await;
        assert!(matches!(result, Err(FrameError::Truncated)), "{sent}: {result:?}");
    }
}

#[tokio::test]
async fn a_read_that_is_dropped_loses_nothing() {
    let (mut near, far) = duplex(1024);
    let mut reader = FrameReader::new(far, 100);
    let mut bytes = 5_u32.to_le_bytes().to_vec();
    bytes.extend_from_slice(b"hello");
    for (sent, byte) in bytes.iter().enumerate() {
        near.write_all(&[*byte]).await.unwrap();
        // Polled once and dropped: takes the byte.
        let mut read = pin!(reader.read());
        let polled = poll_fn(|context| Poll::Ready(read.as_mut().poll(context))).await;
        match polled {
            Poll::Ready(frame) => assert_eq!((sent, frame.unwrap().as_ref()), (8, b"hello".as_slice())),
            Poll::Pending => assert!(sent < 8),
        }
    }
}

#[tokio::test]
async fn a_write_that_is_dropped_is_finished_by_the_next_flush() {
    let (near, far) = duplex(8);
    let mut writer = FrameWriter::new(near, 100);
    {
        let mut send = pin!(writer.send(b"a frame longer than the pipe"));
        assert!(poll_fn(|context| Poll::Ready(send.as_mut().poll(context).is_pending())).await);
    }
    let mut reader = FrameReader::new(far, 100);
    let (flushed, read) = tokio::join!(writer.flush(), reader.read());
    flushed.unwrap();
    assert_eq!(read.unwrap(), "a frame longer than the pipe".as_bytes());
}

#[tokio::test]
async fn long_frames_arrive_whole() {
    let (near, far) = duplex(100_000);
    let frame: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    let sent = frame.clone();
    let sending = tokio::spawn(async move { FrameWriter::new(near, 4_000_000).send(&sent).await });
    assert_eq!(FrameReader::new(far, 4_000_000).read().await.unwrap(), frame);
    sending.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_slow_peer_is_waited_for_and_a_stalled_one_is_not() {
    const STALL: Duration = Duration::from_millis(600);
    let (near, mut far) = duplex(8);
    let mut writer = FrameWriter::new(near, 100).with_stall(STALL);
    // In all, this takes far longer than a stall may.
    let slow = async {
        for _ in 0..15 {
            tokio::time::sleep(STALL / 10).await;
            far.read_exact(&mut [0; 4]).await.unwrap();
        }
    };
    let (sent, ()) = tokio::join!(writer.send(&[1; 60]), slow);
    sent.unwrap();
    assert!(matches!(writer.send(&[2; 60]).await, Err(FrameError::Stalled)));
}
