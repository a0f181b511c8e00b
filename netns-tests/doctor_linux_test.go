package netnstests

import (
	"encoding/json"
	"slices"
	"testing"
)

// A report is what `sally doctor` says about a network, as far as it is checked here.
type report struct {
	UDP  bool `json:"udp"`
	IPv4 struct {
		Mapped     string    `json:"mapped"`
		Mapping    behaviour `json:"mapping"`
		Filtering  behaviour `json:"filtering"`
		Allocation string    `json:"allocation"`
	} `json:"ipv4"`
}

// What the doctor says about each kind of NAT is what the probe has proven.
func TestDoctorTellsTheTruth(t *testing.T) {
	m := newMeeting(t, "")
	for _, kind := range append(kinds(), linuxKind()) {
		site := m.lab.site(kind.name, kind)
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			m.consult(t, site)
		})
	}
}

func (m *meeting) consult(t *testing.T, site *place) {
	r := site.sally(t, m.with(t, "doctor")...).result()
	found := r.all("report")
	if len(found) != 1 {
		r.fatalf("%d reports, want one; exit code %d", len(found), r.code)
	}
	var said report
	if err := json.Unmarshal([]byte(found[0].line), &said); err != nil {
		r.fatalf("the report is not as docs/CLI.md has it: %v", err)
	}
	want(t, "UDP gets through", said.UDP, site.kind.mapping != nothingPasses)
	if site.kind.mapping == nothingPasses {
		return
	}
	want(t, "mapping", said.IPv4.Mapping, site.kind.mapping)
	filters := []behaviour{site.kind.filtering}
	if site.kind.mapping == noTranslation {
		filters = append(filters, noTranslation) // nothing filters: both words are true
	}
	if !slices.Contains(filters, said.IPv4.Filtering) {
		t.Errorf("filtering: got %v, want %v", said.IPv4.Filtering, filters)
	}
	t.Logf("mapped %s, allocation %s", said.IPv4.Mapped, said.IPv4.Allocation)
	if t.Failed() {
		t.Log(r.transcript())
	}
}
