package config

import (
	"math/rand/v2"
	"path"
	"strings"
	"testing"
)

func TestCommonName(t *testing.T) {
	for _, test := range []struct {
		a, b  string
		avoid string // separated by spaces
		want  string // "": none; "any": one that both match
	}{
		{a: "eth*", b: "eth1*", want: "eth1"},
		{a: "eth*", b: "*1", want: "eth1"},
		{a: "eth*", b: "veth*"},
		{a: "eth*", b: "*", want: "eth"},
		{a: "eth?", b: "eth"},
		{a: "eth?", b: "eth1*", want: "eth1"},
		{a: "eth?", b: "eth1*", avoid: "eth1"},
		{a: "eth?*", b: "eth1*", avoid: "eth1 eth10 eth1a", want: "any"},
		{a: "eth[0-3]", b: "eth[4-7]"},
		{a: "eth[0-4]", b: "eth[4-7]", want: "eth4"},
		{a: "eth[0-4]", b: "eth[4-7]", avoid: "eth4"},
		{a: "eth[0-4]", b: "eth[3-7]", avoid: "eth4", want: "eth3"},
		{a: "eth[^0-9]", b: "eth[0-9]"},
		{a: "eth[^0]", b: "eth[^1]", want: "etha"},
		{a: "[^a-z]*", b: "e*"},
		{a: `\**`, b: "[a-z]*"},
		{a: `[\]]`, b: "?", want: "]"},
		{a: "[/-:]", b: "[/:]"}, // no name has either character
		{a: "en*p*s*", b: "*f0", want: "enpsf0"},
		{a: "???????????", b: "*x*y*z*", want: "any"},
		{a: strings.Repeat("*a", 60), b: strings.Repeat("*b", 60)},
		{a: strings.Repeat("*?", 60), b: strings.Repeat("?*", 60), want: "any"},
		{a: strings.Repeat("?", 100) + "*", b: "*" + strings.Repeat("x?", 20), want: "any"},
		{a: strings.Repeat("?", 100) + "a*", b: strings.Repeat("[^a]", 30) + "*a*" + strings.Repeat("b", 80)}, // too long for any name
		{a: "ü*", b: "[à-ÿ]1", want: "ü1"},
	} {
		got := commonName(parseGlob(test.a), parseGlob(test.b), strings.Fields(test.avoid))
		switch {
		case (got == "") != (test.want == ""):
			t.Errorf("%s and %s without %q: %q", test.a, test.b, test.avoid, got)
		case test.want != "" && test.want != "any" && got != test.want:
			t.Errorf("%s and %s without %q: %q, not %q", test.a, test.b, test.avoid, got, test.want)
		case got != "" && (!Match(test.a, got) || !Match(test.b, got) || checkName(got) != nil):
			t.Errorf("%s and %s do not both match %q", test.a, test.b, got)
		}
	}
}

// Random globs over a small alphabet, beside path.Match on every name up to a
// length at which all of them have met.
func TestCommonNameAgainstEveryName(t *testing.T) {
	const longest = 6
	names := everyName("abc-*", longest)
	random := rand.New(rand.NewPCG(1, 2))
	met := 0
	for range 3000 {
		a, b := randomGlob(random), randomGlob(random)
		avoid := []string{names[random.IntN(len(names))], names[random.IntN(6)]}
		got := commonName(parseGlob(a), parseGlob(b), avoid)
		want := firstCommon(names, a, b, avoid)
		if (got == "") != (want == "") || got != "" && (!matches(a, got) || !matches(b, got)) {
			t.Errorf("%q and %q without %q: %q, by path.Match %q", a, b, avoid, got, want)
		}
		if got != "" {
			met++
		}
	}
	if met < 300 || met > 2700 {
		t.Errorf("%d of 3000 pairs met", met)
	}
}

func matches(pattern, name string) bool {
	matched, err := path.Match(pattern, name)
	return err == nil && matched
}

func firstCommon(names []string, a, b string, avoid []string) string {
	for _, name := range names {
		if name != avoid[0] && name != avoid[1] && matches(a, name) && matches(b, name) {
			return name
		}
	}
	return ""
}

// everyName lists all words of an alphabet, short ones first.
func everyName(alphabet string, longest int) []string {
	var names []string
	last := []string{""}
	for range longest {
		var next []string
		for _, prefix := range last {
			for _, r := range alphabet {
				next = append(next, prefix+string(r))
			}
		}
		names = append(names, next...)
		last = next
	}
	return names
}

// randomGlob makes a pattern of up to three glyphs. Its ranges and negations leave
// a character of the small alphabet wherever they leave any.
func randomGlob(random *rand.Rand) string {
	glyphs := []string{"a", "b", "c", "-", "*", "*", "?", `\*`, "[ab]", "[a-c]", "[^a]", "[^b-c]", `[\-a]`, "[*b]"}
	var b strings.Builder
	for range 1 + random.IntN(3) {
		b.WriteString(glyphs[random.IntN(len(glyphs))])
	}
	return b.String()
}

func TestGlobsThatDoNotContradict(t *testing.T) {
	for name, text := range map[string]string{
		"the same settings":            `interfaces: [{name: "eth*", next_hop: last-hop}, {name: "eth1*", next_hop: last-hop}]`,
		"the mode of all":              `{mode: observe, interfaces: [{name: "eth*"}, {name: "eth1*", mode: observe}]}`,
		"order of gateways":            `interfaces: [{name: "eth*", gateways: [10.0.0.1, 10.0.0.2]}, {name: "*1", gateways: [10.0.0.2, 10.0.0.1]}]`,
		"a name beside a glob":         `interfaces: [{name: "eth*"}, {name: eth1, next_hop: last-hop}]`,
		"nothing in common":            `interfaces: [{name: "eth*"}, {name: "ens*", next_hop: last-hop}]`,
		"what they share has an entry": `interfaces: [{name: "eth[01]"}, {name: "eth[12]", next_hop: last-hop}, {name: eth1, mode: observe}]`,
	} {
		t.Run(name, func(t *testing.T) { mustParse(t, text) })
	}
}

func TestFlagsThatContradict(t *testing.T) {
	c := mustParse(t, "interfaces:\n- {name: \"eth*\", next_hop: last-hop}\n")
	err := Overrides{Interfaces: []string{"e*", "eth*"}}.Apply(c)
	const want = `replypath.yaml:2: interfaces[0].next_hop: "eth*" contradicts "e*", as both stand for names such as eth: ` +
		`set the same next_hop in both, or use globs that share no name`
	if err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
	checkError(t, err)
	c = mustParse(t, `interfaces: [{name: "eth*", mode: observe}]`)
	if err := (Overrides{Interfaces: []string{"e*", "eth*"}, Observe: true}).Apply(c); err != nil {
		t.Errorf("everything observes: %v", err)
	}
}
