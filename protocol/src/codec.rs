//! How fields are laid out in a body (`spec/wire.md` section 6), and the checks that go with it.
//!
//! A body is its fields one after the other, little-endian, unaligned, with nothing between
//! them. [`Encoder`] appends fields; [`Decoder`] takes them off the front, never reads past the
//! end, never allocates from a number that it has not compared with the bytes that are there, and
//! wants every byte used.

use crate::error::BodyError;
use crate::id::{
    ChunkHandle, ChunkVersion, ClusterId, DirectoryId, Epoch, FileId, RequestId, Serial, ServerId,
    SessionId, StartNonce, StartNumber,
};

/// A value that has a fixed place in a body: how it is written, how it is read and checked.
pub trait Field: Sized {
    /// The fewest bytes that any value takes; what bounds a list's count.
    const LEN_MIN: usize;

    /// Appends the value.
    fn encode(&self, out: &mut Encoder);

    /// Takes the value off the front.
    ///
    /// # Errors
    /// What the bytes break, see [`BodyError`].
    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError>;
}

/// Appends fields to a growing body.
#[derive(Debug, Default)]
pub struct Encoder {
    bytes: Vec<u8>,
}

impl Encoder {
    /// An encoder with nothing written.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An encoder with nothing written and room for so many bytes.
    #[must_use]
    pub fn with_capacity(len: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(len),
        }
    }

    /// The bytes written.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Appends any field.
    pub fn put<F: Field>(&mut self, field: &F) -> &mut Self {
        field.encode(self);
        self
    }

    /// Appends bytes as they are, with no length before them.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// Appends `len` reserved bytes.
    pub fn reserved(&mut self, len: usize) -> &mut Self {
        self.bytes.resize(self.bytes.len() + len, 0);
        self
    }

    /// Appends a string: its length in two bytes, then UTF-8.
    ///
    /// # Panics
    /// If the string is longer than 65,535 bytes: our caller checks names where they come in.
    pub fn string(&mut self, text: &str) -> &mut Self {
        let len = u16::try_from(text.len()).expect("strings are bounded where they enter");
        self.raw(&len.to_le_bytes()).raw(text.as_bytes())
    }

    /// Appends bytes behind their length in four bytes.
    ///
    /// # Panics
    /// If there are 4 GiB of them or more.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        let len = u32::try_from(bytes.len()).expect("a body is smaller than 4 GiB");
        self.raw(&len.to_le_bytes()).raw(bytes)
    }

    /// Appends a list: the count in four bytes, then the items.
    ///
    /// # Panics
    /// If there are 2^32 items or more.
    pub fn list<F: Field>(&mut self, items: &[F]) -> &mut Self {
        let count = u32::try_from(items.len()).expect("a list has fewer than 2^32 items");
        self.raw(&count.to_le_bytes());
        items.iter().for_each(|item| item.encode(self));
        self
    }
}

/// Takes fields off the front of a body.
#[derive(Clone, Debug)]
pub struct Decoder<'a> {
    rest: &'a [u8],
}

impl<'a> Decoder<'a> {
    /// A decoder at the start of `body`.
    #[must_use]
    pub fn new(body: &'a [u8]) -> Self {
        Self { rest: body }
    }

    /// How many bytes are left.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Takes any field.
    ///
    /// # Errors
    /// Those of the field.
    pub fn take<F: Field>(&mut self) -> Result<F, BodyError> {
        F::decode(self)
    }

    /// Takes `len` bytes as they are.
    ///
    /// # Errors
    /// [`BodyError::Truncated`] if fewer are left.
    pub fn raw(&mut self, len: usize) -> Result<&'a [u8], BodyError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or(BodyError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    /// Takes `N` bytes as they are.
    ///
    /// # Errors
    /// [`BodyError::Truncated`] if fewer are left.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], BodyError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(BodyError::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    /// Takes `len` reserved bytes.
    ///
    /// # Errors
    /// [`BodyError::ReservedNotZero`] if one of them is not zero.
    pub fn reserved(&mut self, len: usize) -> Result<(), BodyError> {
        match self.raw(len)?.iter().all(|&byte| byte == 0) {
            true => Ok(()),
            false => Err(BodyError::ReservedNotZero),
        }
    }

    /// Takes a string of at most `len_max` bytes.
    ///
    /// # Errors
    /// [`BodyError::TooLong`] beyond `len_max`, [`BodyError::NotUtf8`].
    pub fn string(&mut self, len_max: usize) -> Result<&'a str, BodyError> {
        let len = usize::from(self.take::<u16>()?);
        if len > len_max {
            return Err(BodyError::TooLong);
        }
        std::str::from_utf8(self.raw(len)?).map_err(|_| BodyError::NotUtf8)
    }

    /// Takes at most `len_max` bytes from behind their length.
    ///
    /// # Errors
    /// [`BodyError::TooLong`] beyond `len_max`, [`BodyError::Truncated`].
    pub fn bytes(&mut self, len_max: usize) -> Result<&'a [u8], BodyError> {
        let len = self.take::<u32>()? as usize;
        if len > len_max {
            return Err(BodyError::TooLong);
        }
        self.raw(len)
    }

    /// Takes a list of at most `count_max` items.
    ///
    /// The count is compared with the bytes that are left before anything is allocated.
    ///
    /// # Errors
    /// [`BodyError::TooMany`] beyond `count_max`, [`BodyError::Truncated`] if the items can't
    /// fit, and those of the items.
    pub fn list<F: Field>(&mut self, count_max: usize) -> Result<Vec<F>, BodyError> {
        let count = self.take::<u32>()? as usize;
        if count > count_max {
            return Err(BodyError::TooMany);
        }
        if count > self.remaining() / F::LEN_MIN.max(1) {
            return Err(BodyError::Truncated);
        }
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            items.push(self.take()?);
        }
        Ok(items)
    }

    /// Ends the body.
    ///
    /// # Errors
    /// [`BodyError::TrailingBytes`] if some are left.
    pub fn finish(self) -> Result<(), BodyError> {
        match self.rest.is_empty() {
            true => Ok(()),
            false => Err(BodyError::TrailingBytes),
        }
    }
}

macro_rules! integer_fields {
    ($($int:ty),*) => {$(
        impl Field for $int {
            const LEN_MIN: usize = size_of::<$int>();

            fn encode(&self, out: &mut Encoder) {
                out.raw(&self.to_le_bytes());
            }

            fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
                Ok(Self::from_le_bytes(input.array()?))
            }
        }
    )*};
}

integer_fields!(u8, u16, u32, u64);

impl Field for bool {
    const LEN_MIN: usize = 1;

    fn encode(&self, out: &mut Encoder) {
        out.raw(&[u8::from(*self)]);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        match input.take::<u8>()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(BodyError::UnknownValue),
        }
    }
}

impl<const N: usize> Field for [u8; N] {
    const LEN_MIN: usize = N;

    fn encode(&self, out: &mut Encoder) {
        out.raw(self);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        input.array()
    }
}

macro_rules! newtype_fields {
    ($($name:ident($inner:ty)),* $(,)?) => {$(
        impl Field for $name {
            const LEN_MIN: usize = <$inner as Field>::LEN_MIN;

            fn encode(&self, out: &mut Encoder) {
                self.0.encode(out);
            }

            fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
                Ok(Self(input.take()?))
            }
        }
    )*};
}

newtype_fields!(
    ChunkHandle(u64),
    ChunkVersion(u64),
    Serial(u64),
    ServerId(u64),
    FileId(u64),
    SessionId(u64),
    StartNumber(u64),
    StartNonce(u64),
    ClusterId([u8; 16]),
    DirectoryId([u8; 16]),
);

impl Field for Epoch {
    const LEN_MIN: usize = 16;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.number).put(&self.incarnation);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            number: input.take()?,
            incarnation: input.take()?,
        })
    }
}

impl Field for RequestId {
    const LEN_MIN: usize = 24;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.session)
            .put(&self.number)
            .put(&self.lowest_outstanding);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        let id = Self {
            session: input.take()?,
            number: input.take()?,
            lowest_outstanding: input.take()?,
        };
        // A request that is no longer outstanding has had its answer.
        match id.session.is_some() && (1..=id.number).contains(&id.lowest_outstanding) {
            true => Ok(id),
            false => Err(BodyError::RequestIdInvalid),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_never_allocates_beyond_what_arrived() {
        let mut body = Encoder::new();
        body.put(&u32::MAX).put(&7_u64);
        let body = body.into_bytes();
        let list = Decoder::new(&body).list::<u64>(usize::MAX);
        assert_eq!(list, Err(BodyError::Truncated));
        assert_eq!(Decoder::new(&body).list::<u64>(1), Err(BodyError::TooMany));
    }

    #[test]
    fn every_byte_is_used_and_reserved_bytes_are_zero() {
        let mut decoder = Decoder::new(&[0, 0, 1]);
        assert_eq!(decoder.reserved(2), Ok(()));
        assert_eq!(decoder.clone().finish(), Err(BodyError::TrailingBytes));
        assert_eq!(decoder.reserved(1), Err(BodyError::ReservedNotZero));
    }

    #[test]
    fn strings_are_bounded_utf8() {
        let mut body = Encoder::new();
        body.string("größe");
        let body = body.into_bytes();
        assert_eq!(Decoder::new(&body).string(7), Ok("größe"));
        assert_eq!(Decoder::new(&body).string(6), Err(BodyError::TooLong));
        assert_eq!(
            Decoder::new(&[2, 0, 0xff, 0xff]).string(7),
            Err(BodyError::NotUtf8)
        );
        assert_eq!(
            Decoder::new(&[3, 0, 0x61]).string(7),
            Err(BodyError::Truncated)
        );
    }
}
