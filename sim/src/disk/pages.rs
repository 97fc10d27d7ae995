//! The bytes of a simulated file. What was never written takes no memory, and two files share the
//! pages that they have in common.

use std::sync::Arc;

/// What is shared or not.
pub(super) const PAGE: usize = 4096;

type Page = [u8; PAGE];

/// Bytes, zeros where nothing was written; clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Pages {
    len: usize,
    /// None is zeros, as is all behind the last. Of the page that the end lies in, what is behind the
    /// end is zeros too.
    pages: Vec<Option<Arc<Page>>>,
}

impl Pages {
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Cuts off, or makes longer with zeros.
    pub(super) fn resize(&mut self, len: usize) {
        if len < self.len {
            self.pages.truncate(len.div_ceil(PAGE));
            if let Some(Some(last)) = self.pages.get_mut(len / PAGE) {
                Arc::make_mut(last)[len % PAGE..].fill(0);
            }
        }
        self.len = len;
    }

    /// Writes what lies before the end.
    pub(super) fn write(&mut self, position: usize, bytes: &[u8]) {
        let room = self.len.saturating_sub(position).min(bytes.len());
        let mut rest = &bytes[..room];
        let mut position = position;
        while !rest.is_empty() {
            let (n, from) = (position / PAGE, position % PAGE);
            let (now, later) = rest.split_at(rest.len().min(PAGE - from));
            match <&Page>::try_from(now) {
                Ok(whole) => self.put_page(n, whole),
                Err(_) => self.page_mut(n)[from..from + now.len()].copy_from_slice(now),
            }
            position += now.len();
            rest = later;
        }
    }

    /// Reads; what is behind the end is zeros.
    pub(super) fn read(&self, position: usize, buffer: &mut [u8]) {
        let mut rest = buffer;
        let mut position = position;
        while !rest.is_empty() {
            let (n, from) = (position / PAGE, position % PAGE);
            let len = rest.len().min(PAGE - from);
            let (now, later) = rest.split_at_mut(len);
            match self.page(n) {
                Some(page) => now.copy_from_slice(&page[from..from + len]),
                None => now.fill(0),
            }
            position += len;
            rest = later;
        }
    }

    /// Has the bytes of the page that this one lies in from another file of the same length.
    pub(super) fn share(&mut self, position: usize, other: &Self) {
        let n = position / PAGE;
        match other.page(n) {
            Some(page) => {
                let page = Arc::clone(page);
                self.grow_to(n);
                self.pages[n] = Some(page);
            }
            None if n < self.pages.len() => self.pages[n] = None,
            None => {}
        }
    }

    fn page(&self, n: usize) -> Option<&Arc<Page>> {
        self.pages.get(n)?.as_ref()
    }

    fn page_mut(&mut self, n: usize) -> &mut Page {
        self.grow_to(n);
        Arc::make_mut(self.pages[n].get_or_insert_with(|| Arc::new([0; PAGE])))
    }

    /// Writes a whole page: what it held is not copied first.
    fn put_page(&mut self, n: usize, content: &Page) {
        self.grow_to(n);
        match self.pages[n].as_mut().and_then(Arc::get_mut) {
            Some(own) => own.copy_from_slice(content),
            None => self.pages[n] = Some(Arc::new(*content)),
        }
    }

    fn grow_to(&mut self, n: usize) {
        if self.pages.len() <= n {
            self.pages.resize(n + 1, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    /// What is done to a plain vector too gives the same bytes.
    #[test]
    fn they_are_what_plain_bytes_are() {
        let mut random = Random::new(1);
        let (mut pages, mut plain) = (Pages::default(), Vec::<u8>::new());
        let (mut other, mut other_plain) = (pages.clone(), plain.clone());
        for round in 0..2000_u32 {
            match random.index(8) {
                0 => {
                    let len = random.index(5 * PAGE);
                    pages.resize(len);
                    plain.resize(len, 0);
                }
                1 => (other, other_plain) = (pages.clone(), plain.clone()),
                2 if other.len() == pages.len() => {
                    let position = random.index(5 * PAGE);
                    pages.share(position, &other);
                    let from = (position / PAGE * PAGE).min(plain.len());
                    let to = (from + PAGE).min(plain.len());
                    plain[from..to].copy_from_slice(&other_plain[from..to]);
                }
                _ => {
                    let position = random.index(5 * PAGE);
                    let bytes = vec![round.to_le_bytes()[0]; random.index(2 * PAGE)];
                    pages.write(position, &bytes);
                    let there = plain.get_mut(position..).unwrap_or_default();
                    let len = there.len().min(bytes.len());
                    there[..len].copy_from_slice(&bytes[..len]);
                }
            }
            for (pages, plain) in [(&pages, &plain), (&other, &other_plain)] {
                let mut found = vec![1; plain.len() + 10];
                pages.read(0, &mut found);
                assert_eq!(pages.len(), plain.len());
                assert_eq!(found[..plain.len()], plain[..]);
                assert!(found[plain.len()..].iter().all(|&byte| byte == 0));
            }
        }
    }
}
