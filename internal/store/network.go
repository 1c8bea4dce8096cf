package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"

	"banger"
	"banger/internal/network"
)

// freeSlot returns the slot of a new VM. It begins at a place that follows from the
// ID, so that a deleted VM's address is not given to the next one at once.
func freeSlot(ctx context.Context, tx *sql.Tx, id banger.VMID) (int, error) {
	rows, err := tx.QueryContext(ctx, "SELECT slot FROM vms")
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	taken := map[int]bool{}
	for rows.Next() {
		var slot int
		if err := rows.Scan(&slot); err != nil {
			return 0, err
		}
		taken[slot] = true
	}
	if err := rows.Err(); err != nil {
		return 0, err
	}
	const slots = network.LastSlot - network.FirstSlot + 1
	sum := fnv.New32a()
	sum.Write([]byte(id))
	for i := range slots {
		slot := network.FirstSlot + (int(sum.Sum32()%slots)+i)%slots
		if !taken[slot] {
			return slot, nil
		}
	}
	return 0, &banger.Error{Kind: banger.Conflict, Why: fmt.Errorf("all %d addresses of the network are taken", slots),
		Fix: "delete a VM that is not needed: banger vm list"}
}

// Subnet returns the instance's subnet, or the zero Prefix if none was chosen yet.
func (s *Store) Subnet(ctx context.Context) (netip.Prefix, error) {
	var text string
	err := s.readers.QueryRowContext(ctx, "SELECT subnet FROM network").Scan(&text)
	if errors.Is(err, sql.ErrNoRows) {
		return netip.Prefix{}, nil
	}
	if err != nil {
		return netip.Prefix{}, during(err, "read the subnet")
	}
	return netip.ParsePrefix(text)
}

// SetSubnet stores the instance's subnet. The VMs keep their slots.
func (s *Store) SetSubnet(ctx context.Context, subnet netip.Prefix) error {
	_, err := s.writer.ExecContext(ctx, "INSERT INTO network (one, subnet) VALUES (1, ?) ON CONFLICT (one) DO UPDATE SET subnet = excluded.subnet", subnet.String())
	return during(s.full(err), "store the subnet")
}

// AddTraffic adds what a run of the VM has received and sent, in bytes.
func (s *Store) AddTraffic(ctx context.Context, id banger.VMID, received, sent banger.Size) error {
	return s.change(ctx, id, "UPDATE vms SET received = received + ?, sent = sent + ? WHERE id = ?", received, sent, id)
}
