CREATE TABLE vms (
	id         TEXT PRIMARY KEY,
	name       TEXT NOT NULL UNIQUE,
	image      TEXT NOT NULL,
	image_id   TEXT NOT NULL,
	kernel     TEXT NOT NULL,
	kernel_id  TEXT NOT NULL,
	vcpus      INTEGER NOT NULL,
	memory     INTEGER NOT NULL,
	overlay    INTEGER NOT NULL,
	disk       INTEGER NOT NULL,
	driver     TEXT NOT NULL,
	network    TEXT NOT NULL,
	machine_id TEXT NOT NULL,
	created_at INTEGER NOT NULL,
	phase      TEXT NOT NULL,
	wanted     TEXT NOT NULL,
	ending     TEXT NOT NULL DEFAULT '',
	ending_by  TEXT NOT NULL DEFAULT '',
	ended_at   INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

-- A digest is known for ever; a name moves from one digest to the next.
CREATE TABLE images (
	digest     TEXT PRIMARY KEY,
	name       TEXT NOT NULL,
	size       INTEGER NOT NULL,
	origin     TEXT NOT NULL,
	created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE image_names (
	name   TEXT PRIMARY KEY,
	digest TEXT NOT NULL REFERENCES images(digest)
) STRICT, WITHOUT ROWID;

CREATE TABLE kernels (
	digest     TEXT PRIMARY KEY,
	name       TEXT NOT NULL,
	size       INTEGER NOT NULL,
	origin     TEXT NOT NULL,
	created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE kernel_names (
	name   TEXT PRIMARY KEY,
	digest TEXT NOT NULL REFERENCES kernels(digest)
) STRICT, WITHOUT ROWID;
