package netnstests

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// This file is the part of nft's language that the NATs are written in. Each
// small function is one phrase of a rule; add joins phrases to a rule.

// A ruleset is the one table of a router, sent to the kernel by commit.
type ruleset struct {
	conn  *nftables.Conn
	table *nftables.Table
	err   error // the first mistake, reported by commit
}

type (
	phrase = []expr.Any
	hook   = *nftables.ChainHook
)

var (
	prerouting  = nftables.ChainHookPrerouting
	input       = nftables.ChainHookInput
	forward     = nftables.ChainHookForward
	postrouting = nftables.ChainHookPostrouting

	filterChain = nftables.ChainTypeFilter
	natChain    = nftables.ChainTypeNAT

	beforeConntrack = nftables.ChainPriorityRaw
	destinationNAT  = nftables.ChainPriorityNATDest
	filtering       = nftables.ChainPriorityFilter
	sourceNAT       = nftables.ChainPriorityNATSource
	afterNAT        = nftables.ChainPrioritySELinuxLast
)

// newRuleset begins a router's table of one family.
func newRuleset(ns *namespace, family nftables.TableFamily) (*ruleset, error) {
	conn, err := nftables.New(nftables.WithNetNSFd(int(ns.handle)))
	if err != nil {
		return nil, fmt.Errorf("opening nfnetlink in %s: %w", ns.name, err)
	}
	table := conn.AddTable(&nftables.Table{Family: family, Name: "sally"})
	return &ruleset{conn: conn, table: table}, nil
}

// commit sends the whole table in one batch.
func (r *ruleset) commit() error {
	if r.err != nil {
		return r.err
	}
	if err := r.conn.Flush(); err != nil {
		return fmt.Errorf("loading the NAT rules: %w", err)
	}
	return nil
}

func (r *ruleset) chain(name string, kind nftables.ChainType, at hook, priority *nftables.ChainPriority) *nftables.Chain {
	return r.conn.AddChain(&nftables.Chain{
		Name: name, Table: r.table, Type: kind, Hooknum: at, Priority: priority,
	})
}

func (r *ruleset) add(chain *nftables.Chain, phrases ...phrase) {
	var whole phrase
	for _, p := range phrases {
		whole = append(whole, p...)
	}
	r.conn.AddRule(&nftables.Rule{Table: r.table, Chain: chain, Exprs: whole})
}

// learningSet is a set that packets add to; what is not refreshed is forgotten.
func (r *ruleset) learningSet(name string, key []nftables.SetDatatype, lifetime time.Duration) *nftables.Set {
	set := &nftables.Set{
		Table: r.table, Name: name, KeyType: nftables.MustConcatSetType(key...),
		Dynamic: true, HasTimeout: true, Timeout: lifetime, Size: 1 << 16,
	}
	if err := r.conn.AddSet(set, nil); err != nil && r.err == nil {
		r.err = fmt.Errorf("making set %s: %w", name, err)
	}
	return set
}

// A field is a place in a packet's IPv4 or UDP header.
type field struct {
	base           expr.PayloadBase
	offset, length uint32
}

var (
	sourceAddress      = field{expr.PayloadBaseNetworkHeader, 12, 4}
	destinationAddress = field{expr.PayloadBaseNetworkHeader, 16, 4}
	sourcePort         = field{expr.PayloadBaseTransportHeader, 0, 2}
	destinationPort    = field{expr.PayloadBaseTransportHeader, 2, 2}
)

// The kernel has sixteen four-byte registers; the parts of a set's key lie side by side.
const (
	firstRegister = unix.NFT_REG32_00
	portRegister  = unix.NFT_REG32_04
)

func load(f field, register uint32) expr.Any {
	return &expr.Payload{DestRegister: register, Base: f.base, Offset: f.offset, Len: f.length}
}

func isDevice(key expr.MetaKey, name string) phrase {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return phrase{
		&expr.Meta{Key: key, Register: firstRegister},
		&expr.Cmp{Op: expr.CmpOpEq, Register: firstRegister, Data: padded},
	}
}

func arriving(device string) phrase { return isDevice(expr.MetaKeyIIFNAME, device) }

func leaving(device string) phrase { return isDevice(expr.MetaKeyOIFNAME, device) }

func udp() phrase {
	return phrase{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: firstRegister},
		&expr.Cmp{Op: expr.CmpOpEq, Register: firstRegister, Data: []byte{unix.IPPROTO_UDP}},
	}
}

func newConnection() phrase {
	return phrase{
		&expr.Ct{Key: expr.CtKeySTATE, Register: firstRegister},
		&expr.Bitwise{
			SourceRegister: firstRegister, DestRegister: firstRegister, Len: 4,
			Mask: binary.NativeEndian.AppendUint32(nil, expr.CtStateBitNEW), Xor: make([]byte, 4),
		},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: firstRegister, Data: make([]byte, 4)},
	}
}

func drop() phrase { return phrase{&expr.Verdict{Kind: expr.VerdictDrop}} }

// keyTypes says what a filter remembers: our port, and how much of the remote endpoint.
func keyTypes(filter behaviour) []nftables.SetDatatype {
	switch filter {
	case independent:
		return []nftables.SetDatatype{nftables.TypeInetService}
	case byAddress:
		return []nftables.SetDatatype{nftables.TypeInetService, nftables.TypeIPAddr}
	case byAddressPort:
		return []nftables.SetDatatype{nftables.TypeInetService, nftables.TypeIPAddr, nftables.TypeInetService}
	}
	panic(fmt.Sprintf("no filter is called %q", filter))
}

// filterKey loads what keyTypes describes; the fields are named as the direction has them.
func filterKey(filter behaviour, remoteAddress, remotePort, ourPort field) phrase {
	fields := []field{ourPort, remoteAddress, remotePort}[:len(keyTypes(filter))]
	var p phrase
	for i, f := range fields {
		p = append(p, load(f, firstRegister+uint32(i)))
	}
	return p
}

// absent goes on with the rule if the loaded key is not in the set.
func absent(s *nftables.Set) phrase {
	return phrase{&expr.Lookup{SourceRegister: firstRegister, SetID: s.ID, SetName: s.Name, Invert: true}}
}

// learn adds the loaded key to the set or renews its lifetime.
func learn(s *nftables.Set) phrase {
	return phrase{&expr.Dynset{
		SrcRegKey: firstRegister, SetID: s.ID, SetName: s.Name,
		Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: s.Timeout,
	}}
}

// flippedNAT translates to an address and to the packet's own port XOR flip.
func flippedNAT(kind expr.NATType, to netip.Addr, port field, flip uint16) phrase {
	return phrase{
		&expr.Immediate{Register: firstRegister, Data: to.AsSlice()},
		load(port, portRegister),
		&expr.Bitwise{
			SourceRegister: portRegister, DestRegister: portRegister, Len: 2,
			Mask: []byte{0xff, 0xff}, Xor: binary.BigEndian.AppendUint16(nil, flip),
		},
		&expr.NAT{
			Type: kind, Family: unix.NFPROTO_IPV4,
			RegAddrMin: firstRegister, RegProtoMin: portRegister, Specified: true,
		},
	}
}

func snat(to netip.Addr, port field, flip uint16) phrase {
	return flippedNAT(expr.NATTypeSourceNAT, to, port, flip)
}

func dnat(to netip.Addr, port field, flip uint16) phrase {
	return flippedNAT(expr.NATTypeDestNAT, to, port, flip)
}

func masqueraded(random bool) phrase { return phrase{&expr.Masq{FullyRandom: random}} }
