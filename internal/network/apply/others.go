package apply

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"banger/internal/hostcmd"
)

// A table cannot overrule another one's drop. Where the host's own firewall drops what
// is forwarded, as with Docker or ufw, each chain that does so gets two rules that accept
// what comes from and goes to the bridge: the instance's tables have decided about those
// packets already. With br_netfilter even frames from guest to guest pass such a chain.
// The rules carry the instance's alias as a comment, by which they are found again.

// dockerUser is Docker's chain for rules that others add. Docker keeps what is in it.
const dockerUser = "DOCKER-USER"

// ensureAccepted adds the rules where they are missing. A host's firewall forgets them
// when it starts again, so each call looks.
func (a *applier) ensureAccepted() error {
	chains, err := (&nftables.Conn{}).ListChains()
	if err != nil {
		return fmt.Errorf("list chains: %w", err)
	}
	for _, c := range forwardChains(chains) {
		if err := a.acceptIn(c); err != nil {
			a.note(fmt.Sprintf("the chain %s of the table %s %s may drop what guests send: %v", c.Name, family(c.Table.Family), c.Table.Name, err),
				fmt.Sprintf("sudo nft insert rule %s %s %s iifname %q accept", family(c.Table.Family), c.Table.Name, c.Name, a.Instance.Bridge()))
		}
	}
	a.noteOthers(chains)
	return a.ensureLegacy()
}

func (a *applier) note(text, fix string) { a.notes = append(a.notes, Note{Text: text, Fix: fix}) }

// forwardChains returns the chains that need the rules: those that drop what they do not
// know, or Docker's chain in their place.
func forwardChains(chains []*nftables.Chain) []*nftables.Chain {
	var found []*nftables.Chain
	for _, c := range chains {
		if dropsAt(c, nftables.ChainHookForward) {
			found = append(found, c)
		}
	}
	user := slices.IndexFunc(chains, isDockerUser)
	if user < 0 {
		return found
	}
	found = slices.DeleteFunc(found, func(c *nftables.Chain) bool {
		return c.Table.Name == "filter" && c.Table.Family == nftables.TableFamilyIPv4
	})
	return append(found, chains[user])
}

func isDockerUser(c *nftables.Chain) bool {
	return c.Name == dockerUser && c.Table.Name == "filter" && c.Table.Family == nftables.TableFamilyIPv4
}

// dropsAt reports whether a chain of somebody else drops IPv4 packets at a hook unless a
// rule accepts them.
func dropsAt(c *nftables.Chain, hook *nftables.ChainHook) bool {
	return c.Type == nftables.ChainTypeFilter && c.Hooknum != nil && *c.Hooknum == *hook &&
		(c.Table.Family == nftables.TableFamilyIPv4 || c.Table.Family == nftables.TableFamilyINet) &&
		c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop && !instanceTable.MatchString(c.Table.Name)
}

// directions are the two rules, as what they match.
func (a *applier) directions() []match {
	return []match{from(a.Instance.Bridge()), to(a.Instance.Bridge())}
}

// acceptIn makes the two rules the only ones of the instance in a chain. They are not
// looked into: as many as there should be are taken for the right ones, since they
// follow from the comment alone.
func (a *applier) acceptIn(c *nftables.Chain) error {
	marked, err := a.marked(c)
	if err != nil || len(marked) == len(a.directions()) {
		return err
	}
	conn := &nftables.Conn{}
	for _, r := range marked {
		if err := conn.DelRule(r); err != nil {
			return err
		}
	}
	for _, m := range a.directions() {
		conn.InsertRule(&nftables.Rule{Table: c.Table, Chain: c, Exprs: all(m, match{&expr.Counter{}}, accept), UserData: commented(a.Instance.Alias())})
	}
	return conn.Flush()
}

// marked returns the instance's rules in a chain.
func (a *applier) marked(c *nftables.Chain) ([]*nftables.Rule, error) {
	rules, err := (&nftables.Conn{}).GetRules(c.Table, c)
	if err != nil {
		return nil, err
	}
	var found []*nftables.Rule
	for _, r := range rules {
		if comment(r) == a.Instance.Alias() {
			r.Table, r.Chain = c.Table, c
			found = append(found, r)
		}
	}
	return found, nil
}

// removeAccepted removes the rules from wherever they are.
func (a *applier) removeAccepted() error {
	chains, err := (&nftables.Conn{}).ListChains()
	if noFirewall(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list chains: %w", err)
	}
	for _, c := range chains {
		forward := c.Hooknum != nil && *c.Hooknum == *nftables.ChainHookForward && c.Type == nftables.ChainTypeFilter
		if !forward && !isDockerUser(c) || instanceTable.MatchString(c.Table.Name) {
			continue
		}
		if err := a.removeFrom(c); err != nil {
			return fmt.Errorf("remove banger's rules from the chain %s of %s %s: %w", c.Name, family(c.Table.Family), c.Table.Name, err)
		}
	}
	return a.removeLegacy()
}

func (a *applier) removeFrom(c *nftables.Chain) error {
	marked, err := a.marked(c)
	if err != nil {
		return err
	}
	conn := &nftables.Conn{}
	for _, r := range marked {
		if err := conn.DelRule(r); err != nil {
			return err
		}
	}
	return conn.Flush()
}

// noteOthers tells of firewalls that Apply does not change. firewalld refuses at the end
// of its own chains, and puts a bridge into no zone by itself: which one it trusts is the
// user's decision, and one that could not be taken back while firewalld is not running.
// A firewall that drops what the host receives also drops guests' questions for names,
// and there is no chain for others' rules in it.
func (a *applier) noteOthers(chains []*nftables.Chain) {
	bridge := a.Instance.Bridge()
	firewalld := chosen(chains, func(c *nftables.Chain) bool { return c.Table.Name == "firewalld" })
	if len(firewalld) > 0 {
		zones := chosen(firewalld, func(c *nftables.Chain) bool { return strings.HasPrefix(c.Name, "filter_FORWARD") })
		if !a.named(zones) {
			a.note("firewalld refuses what guests send until the bridge is in a zone that it trusts",
				fmt.Sprintf("sudo firewall-cmd --permanent --zone=trusted --add-interface=%s && sudo firewall-cmd --reload", bridge))
		}
		return
	}
	ufw := chosen(chains, func(c *nftables.Chain) bool { return strings.HasPrefix(c.Name, "ufw-user-input") })
	for _, c := range chains {
		if !dropsAt(c, nftables.ChainHookInput) || a.named(append(ufw, c)) {
			continue
		}
		fix := fmt.Sprintf("sudo nft insert rule %s %s %s iifname %q meta l4proto { tcp, udp } th dport 53 accept", family(c.Table.Family), c.Table.Name, c.Name, bridge)
		if len(ufw) > 0 {
			fix = fmt.Sprintf("sudo ufw allow in on %s to any port 53", bridge)
		}
		a.note("the host's firewall may drop guests' questions for names", fix)
		return
	}
}

func chosen(chains []*nftables.Chain, is func(*nftables.Chain) bool) (found []*nftables.Chain) {
	for _, c := range chains {
		if is(c) {
			found = append(found, c)
		}
	}
	return found
}

// named reports whether a rule in one of some chains names the bridge: then a person has
// decided about it.
func (a *applier) named(chains []*nftables.Chain) bool {
	bridge := []byte(a.Instance.Bridge())
	names := func(e expr.Any) bool {
		cmp, ok := e.(*expr.Cmp)
		return ok && bytes.Equal(bytes.TrimRight(cmp.Data, "\x00"), bridge)
	}
	for _, c := range chains {
		rules, err := (&nftables.Conn{}).GetRules(c.Table, c)
		if err == nil && slices.ContainsFunc(rules, func(r *nftables.Rule) bool { return slices.ContainsFunc(r.Exprs, names) }) {
			return true
		}
	}
	return false
}

// legacyTable reports whether the older iptables, whose tables nftables does not show,
// has a table in this namespace.
func legacyTable(name string) bool {
	text, err := os.ReadFile("/proc/thread-self/net/ip_tables_names")
	return err == nil && slices.Contains(strings.Fields(string(text)), name)
}

const legacyCommand = "iptables-legacy"

// legacy runs the older iptables, which is the only one that may change its tables.
func (a *applier) legacy(args ...string) (string, error) {
	path, err := a.run.Look(legacyCommand)
	if err != nil {
		return "", err
	}
	out, err := a.run.Run(a.ctx, hostcmd.Cmd{Argv: append([]string{path, "--wait"}, args...)})
	return string(out), err
}

func (a *applier) ensureLegacy() error {
	if !legacyTable("filter") {
		return nil
	}
	rules, err := a.legacy("-S")
	if err != nil {
		a.note(fmt.Sprintf("the host's iptables may drop what guests send: %v", err), "install iptables, which has the command "+legacyCommand)
		return nil
	}
	chain, drops := legacyChain(rules)
	if !drops {
		return nil
	}
	for _, spec := range a.legacySpecs() {
		if strings.Contains(rules, legacyRule(chain, spec)) {
			continue
		}
		if _, err := a.legacy(append([]string{"-I", chain}, spec...)...); err != nil {
			return fmt.Errorf("accept guests in the chain %s: %w", chain, err)
		}
	}
	return nil
}

// legacyChain returns the chain that needs the rules.
func legacyChain(rules string) (chain string, drops bool) {
	if strings.Contains(rules, "-N "+dockerUser+"\n") {
		return dockerUser, true
	}
	return "FORWARD", strings.Contains(rules, "-P FORWARD DROP\n")
}

// legacySpecs are the two rules as iptables prints them.
func (a *applier) legacySpecs() [][]string {
	tail := []string{"-m", "comment", "--comment", a.Instance.Alias(), "-j", "ACCEPT"}
	return [][]string{append([]string{"-i", a.Instance.Bridge()}, tail...), append([]string{"-o", a.Instance.Bridge()}, tail...)}
}

func legacyRule(chain string, spec []string) string {
	return "-A " + chain + " " + strings.Join(spec, " ") + "\n"
}

func (a *applier) removeLegacy() error {
	if !legacyTable("filter") {
		return nil
	}
	rules, err := a.legacy("-S")
	if err != nil {
		return nil // without the command we added none
	}
	for line := range strings.Lines(rules) {
		words := strings.Fields(strings.ReplaceAll(line, `"`, ""))
		if len(words) < 2 || words[0] != "-A" || !slices.Contains(words, a.Instance.Alias()) {
			continue
		}
		words[0] = "-D"
		if _, err := a.legacy(words...); err != nil {
			return fmt.Errorf("remove banger's rule from the chain %s: %w", words[1], err)
		}
	}
	return nil
}
