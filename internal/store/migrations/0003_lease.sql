-- The lease of the client that a VM is made for: the VM is deleted when the lease ends.
ALTER TABLE vms ADD COLUMN lease TEXT NOT NULL DEFAULT '';
