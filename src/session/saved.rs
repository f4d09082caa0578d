//! A conversation in a file: it goes on from there as if it had never been away. The file is [`MAGIC`], the version and the
//! header's length (u32), the header as JSON, token ids (u32), what the cache holds of them, checkpoints, and a digest (u64)
//! of all before it; little-endian. How long the parts behind the header are, the session's own cache says.

use super::digest::Digest;
use super::{Error, Result, Sampling, Session};
use crate::gpu::{self, View};
use crate::memory::Extent;
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};

const MAGIC: &[u8; 8] = b"HALOTALK";
const VERSION: u32 = 1;
/// Bytes of magic, version and the header's length; and of the digest.
const START: u64 = 16;
const END: u64 = 8;
/// Bytes of a header, far above what a context's worth of messages takes.
const MOST_HEADER: u32 = 64 << 20;
/// Bytes of the cache that cross at once.
const PIECE: u64 = 16 << 20;

/// What a saved conversation holds beside the session's own state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Conversation {
    /// With which it goes on. A draw hashes the seed with the position, so sampling keeps nothing else.
    pub sampling: Sampling,
    /// Whatever the app keeps of it: messages, say.
    pub app: serde_json::Value,
}

/// Why a file cannot be gone on from.
#[derive(Debug, thiserror::Error)]
pub enum SavedProblem {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Gpu(#[from] gpu::Error),
    #[error("this is no saved conversation")]
    NotOne,
    #[error("a saved conversation of version {0}; {VERSION} is read here")]
    Version(u32),
    #[error("it has {found} bytes where {expected} are said: it was cut off, or something was added")]
    Length { found: u64, expected: u64 },
    #[error("its header: {0}")]
    Header(String),
    #[error("saved with the model {found}; loaded is {expected}")]
    Model { found: String, expected: String },
    #[error("saved with {what} {found}, this session has {expected}; {help} would help")]
    Other { what: &'static str, found: String, expected: String, help: &'static str },
    #[error("{tokens} tokens, the context holds {context}; a larger -c would help")]
    Context { tokens: usize, context: usize },
    #[error("token {at} is {id}; the vocabulary has {vocabulary}")]
    Token { at: usize, id: u32, vocabulary: usize },
    #[error("it was altered since it was written")]
    Altered,
}

type Checked<T> = std::result::Result<T, SavedProblem>;

/// What the parts behind it are.
#[derive(Serialize, Deserialize)]
struct Header {
    model: String,
    /// [`super::Model::fingerprint`] in hexadecimal.
    fingerprint: String,
    tier: String,
    kv: String,
    /// How far the cache reaches, which says how long its rings are.
    context: usize,
    beyond: usize,
    tokens: usize,
    /// Rings hold the last rows before this position.
    reached: usize,
    /// Recurrent states are those behind the last token.
    settled: bool,
    /// Positions.
    checkpoints: Vec<usize>,
    conversation: Conversation,
}

impl Session {
    /// Writes the conversation as it stands, and ends an answer that is on its way: tokens, what the cache holds of them, and
    /// checkpoints, so that [`Session::blocking_resume`] goes on with the same bits, from an earlier turn too. That is about as
    /// many bytes as the cache takes for so many tokens, and those of the checkpoints.
    ///
    /// # Errors
    /// What `to` fails with, or a lost device.
    pub fn blocking_save(&mut self, to: &mut impl Write, conversation: &Conversation) -> Result<()> {
        self.stop();
        self.history.arrive()?;
        let header = self.saved_header(conversation);
        let json = serde_json::to_vec(&header).map_err(io::Error::from)?;
        let mut digest = Digest::new();
        let mut put = |bytes: &[u8]| {
            digest.add(bytes);
            to.write_all(bytes)
        };
        put(&[&MAGIC[..], &VERSION.to_le_bytes(), &(json.len() as u32).to_le_bytes()].concat())?;
        put(&json)?;
        put(bytemuck::cast_slice(self.history.tokens()))?;
        for (stage, view) in pieces(&self.held(&header)) {
            put(&self.stages[stage].gpu().blocking_read::<u8>(&view)?)?;
        }
        for (_, states) in self.history.checkpoints() {
            states.iter().try_for_each(|bytes| put(bytes))?;
        }
        let digest = digest.value();
        to.write_all(&digest.to_le_bytes())?;
        Ok(())
    }

    fn saved_header(&self, conversation: &Conversation) -> Header {
        let Extent { positions, beyond } = self.cache().extent();
        Header {
            model: self.model().name().into(),
            fingerprint: format!("{:016x}", self.model().fingerprint()),
            tier: self.tier().to_string(),
            kv: self.cache().format().name().into(),
            context: positions,
            beyond,
            tokens: self.history.tokens().len(),
            reached: self.history.reached(),
            settled: self.history.is_settled(),
            checkpoints: self.history.checkpoints().map(|(position, _)| position).collect(),
            conversation: conversation.clone(),
        }
    }

    /// Goes on from a conversation that [`Session::blocking_save`] wrote, in place of this one; gives what was saved beside it.
    /// `file` is its name for messages, `bytes` how long it is.
    ///
    /// # Errors
    /// Another model, tier, format of the cache or length of rings; more tokens than the context holds; a file that was cut off
    /// or altered. What its header says is refused before anything is changed; after a later error the session is empty.
    pub fn blocking_resume(&mut self, file: &str, bytes: u64, from: &mut impl Read) -> Result<Conversation> {
        let named = |problem| Error::Saved { file: file.into(), problem: Box::new(problem) };
        let mut reader = Reader { from, digest: Digest::new() };
        let (header, start) = reader.header(bytes).map_err(named)?;
        self.check_saved(&header).map_err(named)?;
        self.stop();
        self.make_room(header.tokens, true)?;
        let expected = start + 4 * header.tokens as u64 + self.saved_bytes(&header) + END;
        if expected != bytes {
            return Err(named(SavedProblem::Length { found: bytes, expected }));
        }
        self.clear();
        if let Err(problem) = self.take_in(&header, &mut reader) {
            self.clear();
            return Err(named(problem));
        }
        Ok(header.conversation)
    }

    /// Whether a conversation can go on here, by what its header says of it.
    fn check_saved(&self, header: &Header) -> Checked<()> {
        let own = self.saved_header(&header.conversation);
        if header.fingerprint != own.fingerprint {
            let named = |h: &Header| format!("{} ({})", short(&h.model), short(&h.fingerprint));
            return Err(SavedProblem::Model { found: named(header), expected: named(&own) });
        }
        let other = |what, help, found: &str, expected: String| {
            Err(SavedProblem::Other { what, help, found: short(found), expected })
        };
        if header.tier != own.tier {
            return other("tier", "that --tier", &header.tier, own.tier);
        }
        if header.kv != own.kv {
            return other("keys and values in", "that -ctk and -ctv", &header.kv, own.kv);
        }
        if header.tokens > own.context {
            return Err(SavedProblem::Context { tokens: header.tokens, context: own.context });
        }
        let saved = Extent { positions: header.context, beyond: header.beyond };
        if !self.cache().has_rings_of(saved) {
            let context = header.context.to_string();
            return other("a context, of windows kept in rings,", "that -c", &context, own.context.to_string());
        }
        let ordered = header.checkpoints.is_sorted_by(|a, b| a < b);
        let within = header.checkpoints.last().is_none_or(|last| *last <= header.tokens);
        if header.tokens > header.reached || !ordered || !within {
            return Err(SavedProblem::Header(format!("positions that are none of {} tokens", header.tokens)));
        }
        header.conversation.sampling.check().map_err(|error| SavedProblem::Header(error.to_string()))
    }

    /// Bytes of the cache and of checkpoints in a file whose header was checked.
    fn saved_bytes(&self, header: &Header) -> u64 {
        let states = |position: &usize| self.views(|cache| cache.states(*position));
        let states = header.checkpoints.iter().flat_map(states);
        self.held(header).into_iter().chain(states).map(|(_, view)| view.size).fold(0, u64::saturating_add)
    }

    /// All that the conversation goes on from, but for checkpoints.
    fn held(&self, header: &Header) -> Vec<(usize, View)> {
        self.views(|cache| cache.held(header.tokens, header.reached, header.settled))
    }

    fn take_in(&mut self, header: &Header, reader: &mut Reader<impl Read>) -> Checked<()> {
        let tokens: Vec<u32> = bytemuck::pod_collect_to_vec(&reader.bytes(4 * header.tokens as u64)?);
        let vocabulary = self.model().shape().vocabulary;
        if let Some(at) = tokens.iter().position(|id| *id as usize >= vocabulary) {
            return Err(SavedProblem::Token { at, id: tokens[at], vocabulary });
        }
        for (stage, view) in pieces(&self.held(header)) {
            let gpu = self.stages[stage].gpu();
            gpu.write(&view, 0, &reader.bytes(view.size)?)?;
            // What is staged is bounded by a piece.
            gpu.flush()?;
            gpu.blocking_wait()?;
        }
        for position in &header.checkpoints {
            let views = self.views(|cache| cache.states(*position));
            let states = views.iter().map(|(_, view)| reader.bytes(view.size)).collect::<Checked<_>>()?;
            self.history.put(*position, states);
        }
        let (found, mut digest) = (reader.digest.value(), [0; END as usize]);
        reader.from.read_exact(&mut digest)?;
        if u64::from_le_bytes(digest) != found {
            return Err(SavedProblem::Altered);
        }
        self.history.restore(tokens, header.reached, header.settled);
        Ok(())
    }
}

/// Of a name that a file says.
fn short(text: &str) -> String {
    text.chars().take(60).collect::<String>().escape_debug().to_string()
}

/// The views, in parts that are not large.
fn pieces(views: &[(usize, View)]) -> impl Iterator<Item = (usize, View)> {
    let cut = |(stage, view): &(usize, View)| {
        let (stage, view) = (*stage, view.clone());
        (0..view.size).step_by(PIECE as usize).map(move |at| (stage, view.slice(at, PIECE.min(view.size - at))))
    };
    views.iter().flat_map(cut)
}

/// A file that may lie.
struct Reader<'r, R> {
    from: &'r mut R,
    digest: Digest,
}

impl<R: Read> Reader<'_, R> {
    /// The next bytes, of which there are so many by the file's length.
    fn bytes(&mut self, count: u64) -> Checked<Vec<u8>> {
        let mut bytes = vec![0; count as usize];
        self.from.read_exact(&mut bytes)?;
        self.digest.add(&bytes);
        Ok(bytes)
    }

    /// The header of a file of so many bytes, and where it ends.
    fn header(&mut self, bytes: u64) -> Checked<(Header, u64)> {
        if bytes < START + END {
            return Err(SavedProblem::NotOne);
        }
        let start = self.bytes(START)?;
        let word = |at: usize| u32::from_le_bytes([start[at], start[at + 1], start[at + 2], start[at + 3]]);
        let (version, length) = (word(8), word(12));
        if !start.starts_with(MAGIC) {
            return Err(SavedProblem::NotOne);
        }
        if version != VERSION {
            return Err(SavedProblem::Version(version));
        }
        let expected = START + u64::from(length) + END;
        if length > MOST_HEADER || expected > bytes {
            return Err(SavedProblem::Length { found: bytes, expected });
        }
        let json = self.bytes(length.into())?;
        let header = serde_json::from_slice(&json).map_err(|error| SavedProblem::Header(short(&error.to_string())))?;
        Ok((header, START + u64::from(length)))
    }
}
