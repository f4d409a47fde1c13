-- Version 1. Integer keys inside; the public id of a job carries its key (see model::JobId).
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;

-- A lane is a queue and a task. A node claims only tasks it has, so ready jobs are kept by lane.
CREATE TABLE lanes (
    id INTEGER PRIMARY KEY,
    queue TEXT NOT NULL,
    task TEXT NOT NULL,
    UNIQUE (queue, task)
);

-- What many jobs agreed on in the same words: retries, timeout, dependency policy.
CREATE TABLE policies (id INTEGER PRIMARY KEY, body TEXT NOT NULL UNIQUE);

-- What was submitted. Append only.
CREATE TABLE jobs (
    id INTEGER PRIMARY KEY,
    created INTEGER NOT NULL,
    lane INTEGER NOT NULL,
    rank INTEGER NOT NULL,
    policy INTEGER NOT NULL,
    args TEXT NOT NULL,
    extra TEXT
);

-- Every unfinished job stands in exactly one of the next four, with its life beside it.
CREATE TABLE ready (
    lane INTEGER NOT NULL,
    rank INTEGER NOT NULL,
    job INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    crashes INTEGER NOT NULL,
    snoozes INTEGER NOT NULL,
    fence INTEGER NOT NULL,
    PRIMARY KEY (lane, rank, job)
) WITHOUT ROWID;

CREATE TABLE waiting (
    job INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    retrying INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    crashes INTEGER NOT NULL,
    snoozes INTEGER NOT NULL,
    fence INTEGER NOT NULL
);
CREATE INDEX waiting_at ON waiting (at);

CREATE TABLE blocked (
    job INTEGER PRIMARY KEY,
    n_unfinished INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    crashes INTEGER NOT NULL,
    snoozes INTEGER NOT NULL,
    fence INTEGER NOT NULL
);

CREATE TABLE running (
    job INTEGER PRIMARY KEY,
    node INTEGER NOT NULL,
    started INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    crashes INTEGER NOT NULL,
    snoozes INTEGER NOT NULL,
    fence INTEGER NOT NULL,
    cancel INTEGER NOT NULL DEFAULT 0,
    progress TEXT
);
CREATE INDEX running_cancel ON running (node) WHERE cancel = 1;

-- How a job ended. Its last attempt is in this row; the ones before are in `attempts`.
CREATE TABLE ended (
    job INTEGER PRIMARY KEY,
    state INTEGER NOT NULL,
    at INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    crashes INTEGER NOT NULL,
    snoozes INTEGER NOT NULL,
    fence INTEGER NOT NULL,
    node INTEGER,
    started INTEGER,
    outcome INTEGER,
    result TEXT,
    error TEXT
);
CREATE INDEX ended_badly ON ended (state, job) WHERE state <> 5;

CREATE TABLE attempts (
    job INTEGER NOT NULL,
    fence INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    node INTEGER NOT NULL,
    started INTEGER NOT NULL,
    ended INTEGER NOT NULL,
    outcome INTEGER NOT NULL,
    error TEXT,
    PRIMARY KEY (job, fence)
) WITHOUT ROWID;

CREATE TABLE logs (
    job INTEGER NOT NULL,
    n INTEGER NOT NULL,
    fence INTEGER NOT NULL,
    at INTEGER NOT NULL,
    level TEXT NOT NULL,
    text TEXT NOT NULL,
    PRIMARY KEY (job, n)
) WITHOUT ROWID;

CREATE TABLE dependencies (
    on_job INTEGER NOT NULL,
    job INTEGER NOT NULL,
    PRIMARY KEY (on_job, job)
) WITHOUT ROWID;

CREATE TABLE uniques (text TEXT PRIMARY KEY, job INTEGER NOT NULL) WITHOUT ROWID;

CREATE TABLE deadlines (at INTEGER NOT NULL, job INTEGER NOT NULL, PRIMARY KEY (at, job)) WITHOUT ROWID;

-- One row a commit: the events of that commit, packed. `first` is the offset of the first one.
CREATE TABLE events (first INTEGER PRIMARY KEY, at INTEGER NOT NULL, body BLOB NOT NULL);

-- Kept by the difference each commit makes.
CREATE TABLE counts (
    lane INTEGER NOT NULL,
    state INTEGER NOT NULL,
    n INTEGER NOT NULL,
    PRIMARY KEY (lane, state)
) WITHOUT ROWID;

CREATE TABLE nodes (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    pid INTEGER NOT NULL,
    started INTEGER NOT NULL,
    heartbeat INTEGER NOT NULL,
    lock TEXT NOT NULL,
    -- The names of the tasks it can run: a JSON array.
    tasks TEXT NOT NULL
);
