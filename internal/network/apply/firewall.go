package apply

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"banger"
)

// markerChain is in every table that banger made. No packet passes it; the comment of
// its first rule says which rules the table has.
const markerChain = "made_by_banger"

// firewall is what was found of the instance's tables: the comment of each one's marker,
// or nothing for one that does not exist.
type firewall map[nftables.TableFamily]string

// findFirewall fails when one of the tables is somebody else's.
func (a *applier) findFirewall() (firewall, error) {
	found := firewall{}
	for _, t := range tables(a.Wanted) {
		mark, err := marker(t.Table)
		if noFirewall(err) {
			return nil, lacks(t.Family, err)
		}
		if err != nil {
			return nil, err
		}
		there, err := exists(t.Table)
		if err != nil {
			return nil, err
		}
		if mark == "" && there {
			name := family(t.Family) + " " + t.Name
			return nil, &banger.Error{Kind: banger.Conflict, Why: fmt.Errorf("an nftables table %s exists that banger did not make", name),
				Fix: fmt.Sprintf("look at it with `sudo nft list table %s`, and if nothing needs it: sudo nft delete table %s", name, name)}
		}
		found[t.Family] = mark
	}
	return found, nil
}

// marker returns the comment of a table's marker, or nothing where there is none.
func marker(t *nftables.Table) (string, error) {
	all, err := marks(t)
	if err != nil || len(all) == 0 {
		return "", err
	}
	return all[0], nil
}

// marks returns all comments in a table's marker.
func marks(t *nftables.Table) ([]string, error) {
	there, err := exists(t)
	if err != nil || !there {
		return nil, err
	}
	rules, err := (&nftables.Conn{}).GetRules(t, &nftables.Chain{Name: markerChain})
	if err != nil {
		return nil, fmt.Errorf("list table %s %s: %w", family(t.Family), t.Name, err)
	}
	var all []string
	for _, r := range rules {
		all = append(all, comment(r))
	}
	return all, nil
}

// exists reports whether there is a table. The library's other listings hide the
// kernel's error number, so this one comes before them.
func exists(t *nftables.Table) (bool, error) {
	_, err := (&nftables.Conn{}).ListTableOfFamily(t.Name, t.Family)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for table %s %s: %w", family(t.Family), t.Name, err)
	}
	return true, nil
}

func comment(r *nftables.Rule) string {
	text, _ := userdata.GetString(r.UserData, userdata.TypeComment)
	return text
}

func commented(text string) []byte { return userdata.AppendString(nil, userdata.TypeComment, text) }

// ensureFirewall makes the tables. Where both have the rules they should have, only the
// elements that differ are changed, which disturbs no other guest; otherwise both tables
// are replaced as a whole. Either is one transaction.
func (a *applier) ensureFirewall(found firewall) error {
	want := tables(a.Wanted)
	same := true
	for _, t := range want {
		mark, err := t.mark()
		if err != nil {
			return err
		}
		same = same && found[t.Family] == mark
	}
	// Somebody may flush all rules just now, as a firewall does when it starts again.
	if same && transaction(want, table.update) == nil {
		return nil
	}
	if err := transaction(want, table.replace); err != nil {
		return whyNoFirewall(want, err)
	}
	return nil
}

// transaction changes all tables or none.
func transaction(tables []table, change func(table, *nftables.Conn) error) error {
	conn, err := nftables.New(nftables.WithSockOptions(roomy))
	if err != nil {
		return err
	}
	for _, t := range tables {
		if err := change(t, conn); err != nil {
			return err
		}
	}
	return conn.Flush()
}

// roomy makes room for a transaction, which is one message: a full subnet takes about a
// megabyte, where the usual buffer ends at some hundred guests.
func roomy(conn *netlink.Conn) error {
	const size = 4 << 20
	return errors.Join(conn.SetWriteBuffer(size), conn.SetReadBuffer(size))
}

// mark returns the comment of the marker: a digest of everything but the elements.
func (t table) mark() (string, error) {
	sum := sha256.New()
	for _, s := range t.sets {
		fmt.Fprintln(sum, s.name, s.kind.Name)
	}
	for _, c := range t.chains {
		fmt.Fprintln(sum, c.Name, c.Type, *c.Hooknum, *c.Priority)
	}
	for _, r := range t.rules {
		fmt.Fprintln(sum, r.chain, r.what)
		for _, e := range r.match {
			raw, err := expr.Marshal(byte(t.Family), e)
			if err != nil {
				return "", fmt.Errorf("write down a rule about %s: %w", r.what, err)
			}
			sum.Write(raw)
		}
	}
	return "rules " + hex.EncodeToString(sum.Sum(nil)[:8]), nil
}

// replace adds the messages for a whole new table. The first one makes the deletion
// succeed where there is none yet.
func (t table) replace(conn *nftables.Conn) error {
	conn.AddTable(t.Table)
	conn.DelTable(t.Table)
	conn.AddTable(t.Table)
	for _, s := range t.sets {
		if err := conn.AddSet(t.set(s), nil); err != nil {
			return fmt.Errorf("make set %s: %w", s.name, err)
		}
		if err := t.change(conn.SetAddElements, s, s.keys); err != nil {
			return err
		}
	}
	chains := map[string]*nftables.Chain{}
	for _, c := range t.chains {
		chains[c.Name] = conn.AddChain(c)
	}
	for _, r := range t.rules {
		conn.AddRule(&nftables.Rule{Table: t.Table, Chain: chains[r.chain], Exprs: r.match, UserData: commented(r.what)})
	}
	mark, err := t.mark()
	if err != nil {
		return err
	}
	addMarker(conn, t.Table, mark)
	return nil
}

func addMarker(conn *nftables.Conn, t *nftables.Table, marks ...string) {
	chain := conn.AddChain(&nftables.Chain{Name: markerChain, Table: t})
	for _, mark := range marks {
		conn.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}}, UserData: commented(mark)})
	}
}

func (t table) set(s set) *nftables.Set {
	of := &nftables.Set{Table: t.Table, Name: s.name, KeyType: s.kind, Concatenation: strings.Contains(s.kind.Name, " . ")}
	if s.kind.Name == typeLink.Name {
		of.KeyByteOrder = binaryutil.NativeEndian // by which nft prints the names
	}
	return of
}

// update adds the messages for the elements that differ.
func (t table) update(conn *nftables.Conn) error {
	for _, s := range t.sets {
		there, err := (&nftables.Conn{}).GetSetElements(t.set(s))
		if err != nil {
			return fmt.Errorf("list set %s: %w", s.name, err)
		}
		old := map[string]bool{}
		for _, e := range there {
			old[string(e.Key)] = true
		}
		var added, gone [][]byte
		for _, key := range s.keys {
			if !old[string(key)] {
				added = append(added, key)
			}
			delete(old, string(key))
		}
		for key := range old {
			gone = append(gone, []byte(key))
		}
		if err := t.change(conn.SetDeleteElements, s, gone); err != nil {
			return err
		}
		if err := t.change(conn.SetAddElements, s, added); err != nil {
			return err
		}
	}
	return nil
}

// most is how many elements go into one message, whose attributes hold 64 KiB.
const most = 500

func (t table) change(by func(*nftables.Set, []nftables.SetElement) error, s set, keys [][]byte) error {
	for len(keys) > 0 {
		n := min(len(keys), most)
		elements := make([]nftables.SetElement, n)
		for i := range elements {
			elements[i].Key = keys[i]
		}
		if err := by(t.set(s), elements); err != nil {
			return fmt.Errorf("change set %s: %w", s.name, err)
		}
		keys = keys[n:]
	}
	return nil
}

// removeFirewall deletes those of the instance's tables that banger made.
func (a *applier) removeFirewall() error {
	conn := &nftables.Conn{}
	for _, t := range tables(a.Wanted) {
		mark, err := marker(t.Table)
		if noFirewall(err) {
			return nil // a kernel without nftables has no tables of ours
		}
		if err != nil {
			return err
		}
		if mark != "" {
			conn.DelTable(t.Table)
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("delete the tables %s: %w", a.Instance.Table(), err)
	}
	return nil
}

func family(f nftables.TableFamily) string {
	switch f {
	case nftables.TableFamilyINet:
		return "inet"
	case nftables.TableFamilyBridge:
		return "bridge"
	case nftables.TableFamilyIPv4:
		return "ip"
	}
	return fmt.Sprint(f)
}
