//! The worked programs of `docs/worked`, as a library: the binaries print what it answers, and the
//! tests call it.

pub mod fetcher;
pub mod html;
pub mod http;
pub mod job_queue;
pub mod pipeline;
pub mod scraper;
pub mod site;
pub mod speedup;
