package emulator

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// listVersions lists the versions of an object, by their ids. A name that does not exist has none.
func (v *vaultState) listVersions(x *exchange, kind, name string, p paging) reply {
	var items []any
	if o, err := v.find(kind, name); err == nil && !o.deleted {
		versions := slices.Clone(o.versions)
		slices.SortFunc(versions, func(a, b *version) int { return strings.Compare(a.id, b.id) })
		for _, n := range versions {
			items = append(items, v.render(kind, o, n, shape{api: x.api, item: true, versioned: true}))
		}
	}
	return p.cut(x, kind+"/"+name+"/versions", items)
}

// listAll lists objects, or deleted ones, with the attributes of their current versions, by name in any letter case.
func (v *vaultState) listAll(x *exchange, kind string, deleted bool, p paging) reply {
	var found []*object
	for key, o := range v.objects {
		if key.kind == kind && o.deleted == deleted && !v.gone(o) {
			found = append(found, o)
		}
	}
	slices.SortFunc(found, func(a, b *object) int {
		return strings.Compare(strings.ToUpper(a.name), strings.ToUpper(b.name))
	})
	var items []any
	for _, o := range found {
		items = append(items, v.render(kind, o, o.current(), shape{api: x.api, item: true, deleted: deleted}))
	}
	path := kind
	if deleted {
		path = "deleted" + kind
	}
	return p.cut(x, path, items)
}

// paging says how lists are cut.
type paging struct {
	// size is the most that a page holds.
	size int
	// short makes pages that are empty or not full although more follow, as the service's may be: clients must follow
	// the links.
	short bool
}

// listBody is a page.
type listBody struct {
	Value    []any   `json:"value"`
	NextLink *string `json:"nextLink"`
}

// marker is what a skip token holds; to clients it is opaque.
type marker struct {
	NextMarker     string
	TargetLocation int
}

// cut answers with the page that was asked for. The service's links name the port, and have the parameters in this
// order.
func (p paging) cut(x *exchange, path string, items []any) reply {
	query := x.URL.Query()
	size := p.size
	asked := query.Get("maxresults")
	if asked != "" {
		n, err := strconv.Atoi(asked)
		if err != nil || n < 1 || n > 25 {
			return refusal(http.StatusBadRequest, "BadParameter", "invalid value for maxresults: "+asked, "")
		}
		size = min(size, n)
	}
	from, ok := parseSkipToken(query.Get("$skiptoken"))
	if !ok {
		return refusal(http.StatusBadRequest, "BadParameter", "invalid value for $skiptoken", "")
	}
	from = min(from, len(items))
	to := min(from+size, len(items))
	if p.short && to < len(items) {
		to = from + size/2 // not full
		if from == 0 && !query.Has("$skiptoken") {
			to = 0 // the first page is empty
		}
		if to == from && from > 0 {
			to++
		}
	}
	body := listBody{Value: append([]any{}, items[from:to]...)}
	if to < len(items) {
		link := "https://" + x.record.Host + ":443/" + path + "?api-version=" + url.QueryEscape(query.Get("api-version")) +
			"&$skiptoken=" + skipToken(to)
		if asked != "" {
			link += "&maxresults=" + asked
		}
		body.NextLink = &link
	}
	return reply{status: http.StatusOK, body: body}
}

func skipToken(next int) string {
	text, _ := json.Marshal(marker{NextMarker: strconv.Itoa(next)})
	return base64.RawURLEncoding.EncodeToString(text)
}

func parseSkipToken(token string) (next int, ok bool) {
	if token == "" {
		return 0, true
	}
	text, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		return 0, false
	}
	var m marker
	if err := json.Unmarshal(text, &m); err != nil {
		return 0, false
	}
	next, err = strconv.Atoi(m.NextMarker)
	return next, err == nil && next >= 0
}
