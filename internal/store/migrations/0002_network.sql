-- Until now no VM had a network, and nobody could choose one.
UPDATE vms SET network = 'auto';

-- slot is the VM's place in the subnet, and so its address; received and sent are
-- the bytes of all runs that have ended; published are the ports that the host
-- publishes, as --port takes them, with spaces between.
ALTER TABLE vms ADD COLUMN slot INTEGER NOT NULL DEFAULT 0;
ALTER TABLE vms ADD COLUMN nat INTEGER NOT NULL DEFAULT 1;
ALTER TABLE vms ADD COLUMN isolated INTEGER NOT NULL DEFAULT 0;
ALTER TABLE vms ADD COLUMN received INTEGER NOT NULL DEFAULT 0;
ALTER TABLE vms ADD COLUMN sent INTEGER NOT NULL DEFAULT 0;
ALTER TABLE vms ADD COLUMN published TEXT NOT NULL DEFAULT '';

UPDATE vms SET slot = (SELECT count(*) + 1 FROM vms AS other WHERE other.id <= vms.id);

CREATE UNIQUE INDEX vms_slot ON vms (slot);

-- The instance's subnet, in at most one row.
CREATE TABLE network (
	one    INTEGER PRIMARY KEY CHECK (one = 1),
	subnet TEXT NOT NULL
) STRICT;
