package dns

import (
	"net/netip"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// Sizes of messages.
const (
	headerSize = 12
	usualUDP   = 512  // what everybody takes by UDP
	mostUDP    = 4096 // the most that we send by UDP, whatever the asker takes
	ourUDP     = 1232 // what we say that we take: it fits into every network's packets
	mostQuery  = 4096 // of an asker
)

// badVersion answers a version of EDNS that is not 0.
const badVersion dnsmessage.RCode = 16

// query is a question, and how its asker takes the answer.
type query struct {
	header    dnsmessage.Header
	question  dnsmessage.Question
	asked     bool // question is set
	edns      bool // the asker sent an OPT record
	dnssec    bool // with DO in it
	size      int  // the largest answer by UDP
	recursion bool // names that are not ours are looked up for the asker
}

// parse reads a query. It returns nil for what must not be answered, and an RCode for
// what must be answered with it.
func parse(packet []byte) (*query, dnsmessage.RCode) {
	var p dnsmessage.Parser
	header, err := p.Start(packet)
	if err != nil || header.Response { // answers to answers would never end
		return nil, 0
	}
	q := &query{header: header, size: usualUDP}
	if header.OpCode != 0 {
		return q, dnsmessage.RCodeNotImplemented
	}
	if q.question, err = p.Question(); err != nil {
		return q, dnsmessage.RCodeFormatError
	}
	q.asked = true
	if _, err := p.Question(); err != dnsmessage.ErrSectionDone {
		return q, dnsmessage.RCodeFormatError
	}
	if p.SkipAllAnswers() != nil || p.SkipAllAuthorities() != nil {
		return q, dnsmessage.RCodeFormatError
	}
	return q, q.options(&p)
}

// options reads the additional records of a query.
func (q *query) options(p *dnsmessage.Parser) dnsmessage.RCode {
	var version byte
	for {
		h, err := p.AdditionalHeader()
		if err == dnsmessage.ErrSectionDone {
			break
		}
		if err != nil || p.SkipAdditional() != nil {
			return dnsmessage.RCodeFormatError
		}
		if h.Type != dnsmessage.TypeOPT {
			continue
		}
		if q.edns || h.Name.String() != "." {
			return dnsmessage.RCodeFormatError
		}
		q.edns, q.dnssec, q.size = true, h.DNSSECAllowed(), min(max(int(h.Class), usualUDP), mostUDP)
		version = byte(h.TTL >> 16)
	}
	if version != 0 {
		return badVersion
	}
	return dnsmessage.RCodeSuccess
}

// answer is what we say to a query.
type answer struct {
	rcode     dnsmessage.RCode
	truncated bool
	ours      bool       // we have authority
	addr      netip.Addr // an A record
	ptr       string     // a PTR record
	zone      string     // a SOA record of this zone
	soa       string     // no record, by authority of this zone
}

// Times to live, in seconds. A guest keeps its address as long as it lives, but a name
// that is missing may be there the next moment.
const (
	ttl        = 5
	ttlMissing = 0
)

// pack returns the message with the answer.
func (q *query) pack(a answer) []byte {
	h := dnsmessage.Header{
		ID: q.header.ID, Response: true, OpCode: q.header.OpCode, Authoritative: a.ours, Truncated: a.truncated,
		RecursionDesired: q.header.RecursionDesired, RecursionAvailable: q.recursion, CheckingDisabled: q.header.CheckingDisabled,
		RCode: a.rcode & 0xf,
	}
	b := dnsmessage.NewBuilder(make([]byte, 0, usualUDP), h)
	b.EnableCompression()
	err := b.StartQuestions()
	if err == nil && q.asked {
		err = b.Question(q.question)
	}
	if err == nil {
		err = q.records(&b, a)
	}
	packed, failed := b.Finish()
	if err != nil || failed != nil { // a name that can be read but not written
		h.RCode = dnsmessage.RCodeFormatError
		b = dnsmessage.NewBuilder(nil, h)
		packed, _ = b.Finish()
	}
	return packed
}

// records appends the records of an answer.
func (q *query) records(b *dnsmessage.Builder, a answer) error {
	if err := b.StartAnswers(); err != nil {
		return err
	}
	h := dnsmessage.ResourceHeader{Name: q.question.Name, Class: dnsmessage.ClassINET, TTL: ttl}
	var err error
	switch {
	case a.addr.IsValid():
		err = b.AResource(h, dnsmessage.AResource{A: a.addr.As4()})
	case a.ptr != "":
		var name dnsmessage.Name
		if name, err = dnsmessage.NewName(a.ptr); err == nil {
			err = b.PTRResource(h, dnsmessage.PTRResource{PTR: name})
		}
	case a.zone != "":
		err = authority(b, a.zone)
	}
	if err != nil {
		return err
	}
	if err := b.StartAuthorities(); err != nil {
		return err
	}
	if a.soa != "" {
		if err := authority(b, a.soa); err != nil {
			return err
		}
	}
	if !q.edns {
		return nil
	}
	if err := b.StartAdditionals(); err != nil {
		return err
	}
	var opt dnsmessage.ResourceHeader
	opt.SetEDNS0(ourUDP, a.rcode, q.dnssec)
	return b.OPTResource(opt, dnsmessage.OPTResource{})
}

// authority appends the SOA record of a zone to the section that is open.
func authority(b *dnsmessage.Builder, zone string) error {
	name, err := dnsmessage.NewName(zone)
	if err != nil {
		return err
	}
	return b.SOAResource(dnsmessage.ResourceHeader{Name: name, Class: dnsmessage.ClassINET, TTL: ttlMissing}, dnsmessage.SOAResource{
		NS: dnsmessage.MustNewName(apex), MBox: dnsmessage.MustNewName("hostmaster." + apex),
		Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, MinTTL: ttlMissing,
	})
}

// answers reports whether a message answers this query, sent with this ID.
func (q *query) answers(message []byte, id uint16) bool {
	var p dnsmessage.Parser
	h, err := p.Start(message)
	if err != nil || !h.Response || h.ID != id || h.OpCode != 0 {
		return false
	}
	got, err := p.Question()
	if err != nil || got.Type != q.question.Type || got.Class != q.question.Class ||
		!strings.EqualFold(got.Name.String(), q.question.Name.String()) {
		return false
	}
	_, err = p.Question()
	return err == dnsmessage.ErrSectionDone
}

// deliver returns an upstream's answer as the asker gets it: with its own ID, at most
// most bytes long, and without IPv6 addresses, which no guest can reach.
func (q *query) deliver(message []byte, most int) []byte {
	h, ipv6, err := inspect(message)
	switch {
	case len(message) > most || err != nil && h.Truncated:
		return q.pack(answer{rcode: h.RCode, truncated: true})
	case err != nil:
		return q.pack(answer{rcode: dnsmessage.RCodeServerFailure})
	case ipv6 && q.question.Type == dnsmessage.TypeAAAA:
		return q.pack(answer{})
	}
	message[0], message[1] = byte(q.header.ID>>8), byte(q.header.ID)
	return message
}

// inspect returns the header of a message, and whether there are IPv6 addresses in its
// answer section. The error says that it is none.
func inspect(message []byte) (h dnsmessage.Header, ipv6 bool, err error) {
	var p dnsmessage.Parser
	if h, err = p.Start(message); err != nil {
		return h, false, err
	}
	if err := p.SkipAllQuestions(); err != nil {
		return h, false, err
	}
	for {
		r, err := p.AnswerHeader()
		if err == dnsmessage.ErrSectionDone {
			break
		}
		if err != nil {
			return h, false, err
		}
		ipv6 = ipv6 || r.Type == dnsmessage.TypeAAAA
		if err := p.SkipAnswer(); err != nil {
			return h, false, err
		}
	}
	if err := p.SkipAllAuthorities(); err != nil {
		return h, false, err
	}
	return h, ipv6, p.SkipAllAdditionals()
}
