//! The registry as a checkpoint holds it: columns, in pieces of bounded size.

use std::collections::BTreeMap;

use super::{Named, Registry};
use crate::engine::checkpoint::archive::{Head, RegistryPiece};
use crate::ids::{Micros, Sequence, SessionEpoch, SessionId};
use crate::limits::{ARCHIVE_PIECE_BYTES, SESSION_NAME_BYTES_MAX};

/// Bytes that a name takes beside itself.
const NAMED_BYTES: usize = 24;

const _: () = assert!(SESSION_NAME_BYTES_MAX <= u8::MAX as usize);

impl Registry {
    /// Writes down what is small.
    pub fn put_into(&self, head: &mut Head) {
        head.mark = self.mark.0;
        head.last_session = self.last.0;
        head.log_time = self.log_time.0;
    }

    /// All sessions and names, in pieces.
    #[must_use]
    pub fn pieces(&self) -> Vec<RegistryPiece> {
        let mut pieces = Vec::new();
        let mut piece = RegistryPiece::default();
        for opened in &self.opened {
            if piece.opened.len() * size_of::<u64>() >= ARCHIVE_PIECE_BYTES {
                pieces.push(std::mem::take(&mut piece));
            }
            piece.opened.push(opened.0);
        }
        pieces.push(std::mem::take(&mut piece));
        for (name, named) in &self.names {
            if piece.names.len() + piece.sessions.len() * NAMED_BYTES >= ARCHIVE_PIECE_BYTES {
                pieces.push(std::mem::take(&mut piece));
            }
            piece.name_lengths.push(name.len() as u8);
            piece.names.extend_from_slice(name);
            piece.sessions.push(named.session.0);
            piece.epochs.push(named.epoch.0);
            piece.progresses.push(named.progress.0);
            piece.closed.push(u8::from(named.closed));
        }
        pieces.push(std::mem::take(&mut piece));
        let places: BTreeMap<&[u8], u32> = self.names.keys().map(|name| &name[..]).zip(0..).collect();
        for (session, name) in &self.named {
            if piece.named_sessions.len() * NAMED_BYTES >= ARCHIVE_PIECE_BYTES {
                pieces.push(std::mem::take(&mut piece));
            }
            piece.named_sessions.push(session.0);
            piece.named_places.push(places[&name[..]]);
        }
        pieces.push(piece);
        pieces
    }

    /// The registry that was put into a head and pieces.
    ///
    /// # Errors
    /// What they say is not the state of any registry.
    pub fn of_pieces(head: &Head, pieces: &[RegistryPiece]) -> Result<Registry, &'static str> {
        let mut registry = Registry {
            last: SessionId(head.last_session),
            mark: SessionId(head.mark),
            log_time: Micros(head.log_time),
            ..Registry::default()
        };
        for piece in pieces {
            registry.opened.extend(piece.opened.iter().map(|&opened| Micros(opened)));
            piece.add_to(&mut registry.names)?;
        }
        let open = registry.last.0.checked_sub(registry.mark.0);
        if open != Some(registry.opened.len() as u64) || !registry.opened.iter().is_sorted() {
            return Err("the registry's sessions are not those between its marks");
        }
        if registry.names.values().any(|named| named.session > registry.last) {
            return Err("a name belongs to a session that was never opened");
        }
        let names: Vec<Vec<u8>> = registry.names.keys().cloned().collect();
        for piece in pieces {
            if piece.named_sessions.len() != piece.named_places.len() {
                return Err("the columns of named sessions do not fit together");
            }
            for (&session, &place) in piece.named_sessions.iter().zip(&piece.named_places) {
                let session = SessionId(session);
                let last = registry.named.last_key_value().map_or(registry.mark, |(last, _)| *last);
                let name = names.get(place as usize).filter(|_| session > last && session <= registry.last);
                registry.named.insert(session, name.ok_or("a session has a name that cannot be its")?.clone());
            }
        }
        Ok(registry)
    }
}

impl RegistryPiece {
    fn add_to(&self, names: &mut BTreeMap<Vec<u8>, Named>) -> Result<(), &'static str> {
        let count = self.name_lengths.len();
        let bytes: usize = self.name_lengths.iter().map(|&length| usize::from(length)).sum();
        let columns = [self.sessions.len(), self.epochs.len(), self.progresses.len(), self.closed.len()];
        if columns.iter().any(|&column| column != count) || bytes != self.names.len() {
            return Err("the columns of names do not fit together");
        }
        let mut rest = &self.names[..];
        for place in 0..count {
            let (name, after) = rest.split_at(usize::from(self.name_lengths[place]));
            rest = after;
            if names.last_key_value().is_some_and(|(last, _)| name <= &last[..]) {
                return Err("names are out of order");
            }
            let named = Named {
                session: SessionId(self.sessions[place]),
                epoch: SessionEpoch(self.epochs[place]),
                progress: Sequence(self.progresses[place]),
                closed: self.closed[place] != 0,
            };
            names.insert(name.to_vec(), named);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::prng::Prng;

    fn history(seed: u64, sessions: u64) -> Registry {
        let mut prng = Prng::new(seed);
        let mut registry = Registry::default();
        for _ in 0..sessions {
            registry.advance(prng.below(100));
            match prng.below(4) {
                0 => registry.open(),
                1 => registry.close(SessionId(prng.below(sessions)), SessionEpoch(1), Sequence(prng.below(9))),
                _ => registry.open_named(format!("job {}", prng.below(sessions / 2 + 1)).as_bytes()),
            };
            if prng.chance(1, 50) {
                registry.expire(SessionId(registry.mark().0 + 1 + prng.below(4)));
            }
        }
        registry
    }

    fn again(registry: &Registry) -> Result<Registry, &'static str> {
        let mut head = Head::default();
        registry.put_into(&mut head);
        Registry::of_pieces(&head, &registry.pieces())
    }

    #[test]
    fn registries_come_back_out_of_their_pieces() {
        for seed in 0..40 {
            let registry = history(seed, 200);
            assert_eq!(again(&registry), Ok(registry), "seed {seed}");
        }
        assert_eq!(again(&Registry::default()), Ok(Registry::default()));
        let mut large = Registry::default();
        for _ in 0..300_000 {
            large.open();
        }
        assert!(large.pieces().len() > 3);
        assert_eq!(again(&large), Ok(large));
    }

    #[test]
    fn pieces_that_contradict_themselves_are_refused() {
        let registry = history(3, 200);
        let mut head = Head::default();
        registry.put_into(&mut head);
        let refused = |head: &Head, change: fn(&mut RegistryPiece)| {
            let mut pieces = registry.pieces();
            pieces.iter_mut().for_each(change);
            Registry::of_pieces(head, &pieces).is_err()
        };
        assert!(!refused(&head, |_| {}));
        assert!(refused(&Head { mark: head.mark + 1, ..head.clone() }, |_| {}));
        assert!(refused(&Head { last_session: 0, ..head.clone() }, |_| {}));
        assert!(refused(&head, |piece| piece.closed.truncate(1)));
        assert!(refused(&head, |piece| piece.names.truncate(1)));
        assert!(refused(&head, |piece| piece.opened.reverse()));
        assert!(refused(&head, |piece| piece.named_places.fill(u32::MAX)));
        assert!(refused(&head, |piece| piece.named_sessions.reverse()));
        assert!(refused(&head, |piece| piece.sessions.fill(u64::MAX)));
    }
}
