package emulator

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"crypto/x509"
	_ "embed"
	"errors"
	"fmt"
	"html/template"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

var (
	//go:embed page.html
	pageHTML string
	//go:embed page.css
	pageCSS []byte
)

// pages are the templates of the page at the control address.
var pages = template.Must(template.New("page").Parse(pageHTML))

// shownRequests is how many requests the page lists.
const shownRequests = 100

// smallForm is how many bytes a form of the page may have: a secret's value, encoded, and some fields.
const smallForm = 256 << 10

// pageTop is what all pages have.
type pageTop struct {
	Title, Error, Done, Now string
}

type overviewPage struct {
	pageTop

	Vaults         []vaultRow
	Identities     []identityRow
	Faults         []Fault
	Kinds          []string
	Latency, Ahead time.Duration
	Requests       []requestRow
	Total          int
}

type vaultRow struct {
	Host, Tenant, Model, Network         string
	Secrets, Keys, Certificates, Deleted int
}

type identityRow struct {
	ClientID, Tenant string
	By, Grants       []string
}

type requestRow struct {
	Request

	At string
}

type vaultPage struct {
	pageTop

	Host    string
	Objects []objectRow
}

type objectRow struct {
	Kind, Noun, Name, State, Updated, Expires, Tags string

	Versions int
}

type objectPage struct {
	pageTop

	Host, Kind, Noun, Name string
	Deleted, HasValue      bool
	Versions               []versionRow

	Shown                    bool
	ShownVersion, ShownValue string
}

type versionRow struct {
	ID, State, Created, Updated, NotBefore, Expires, What, Tags string

	Disabled bool
}

// done are the messages after a change: a link cannot make the page say anything else.
var done = map[string]string{
	"set":     "A new version is set.",
	"rotate":  "A new version is made.",
	"disable": "The version is disabled.",
	"enable":  "The version is enabled.",
	"delete":  "It is deleted.",
	"recover": "It is recovered.",
	"fault":   "The fault is injected.",
	"remove":  "The fault is removed.",
	"clock":   "The clock is moved.",
	"clear":   "The list of requests is empty.",
}

// routePages adds the page to the control API.
func (s *Server) routePages(mux *http.ServeMux) {
	mux.HandleFunc("GET /page.css", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/css; charset=utf-8")
		_, _ = w.Write(pageCSS)
	})
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { s.showOverview(w, r, nil) })
	mux.HandleFunc("GET /page/vaults/{vault}", func(w http.ResponseWriter, r *http.Request) { s.showVault(w, r, nil) })
	mux.HandleFunc("GET /page/vaults/{vault}/{kind}/{name}", func(w http.ResponseWriter, r *http.Request) {
		s.showObject(w, r, "", nil)
	})
	mux.HandleFunc("POST /page/vaults/{vault}/{kind}/{name}/show", func(w http.ResponseWriter, r *http.Request) {
		if err := parseForm(w, r); err != nil {
			s.showObject(w, r, "", err)
			return
		}
		s.showObject(w, r, r.PostForm.Get("version"), nil)
	})
	// A form is answered with a redirect, so that a reload does not repeat it, and with the page and the error where
	// nothing was changed.
	form := func(pattern, what string, failed func(http.ResponseWriter, *http.Request, error), do func(*http.Request) (string, error)) {
		mux.HandleFunc("POST "+pattern, func(w http.ResponseWriter, r *http.Request) {
			err := parseForm(w, r)
			target := ""
			if err == nil {
				target, err = do(r)
			}
			if err != nil {
				failed(w, r, err)
				return
			}
			path, fragment, _ := strings.Cut(target, "#")
			if fragment != "" {
				fragment = "#" + fragment
			}
			http.Redirect(w, r, path+"?done="+what+fragment, http.StatusSeeOther)
		})
	}
	form("/page/faults", "fault", s.showOverview, func(r *http.Request) (string, error) {
		f, err := formFault(r)
		if err == nil {
			s.AddFault(f)
		}
		return "/#faults", err
	})
	form("/page/faults/remove", "remove", s.showOverview, func(r *http.Request) (string, error) {
		return "/#faults", s.RemoveFault(r.PostForm.Get("id"))
	})
	form("/page/clock", "clock", s.showOverview, func(r *http.Request) (string, error) {
		d, err := time.ParseDuration(r.PostForm.Get("advance"))
		if err != nil {
			return "", errors.New("write the time to move the clock by as 30m or 24h")
		}
		s.AdvanceClock(d)
		return "/#clock", nil
	})
	form("/page/requests/clear", "clear", s.showOverview, func(*http.Request) (string, error) {
		s.ResetRequests()
		return "/#requests", nil
	})
	form("/page/vaults/{vault}/set", "set", s.showVault, func(r *http.Request) (string, error) {
		vault, name := r.PathValue("vault"), r.PostForm.Get("name")
		in := Secret{Name: name, Value: formText(r, "value"), ContentType: r.PostForm.Get("contentType")}
		return "/page/vaults/" + vault + "/secrets/" + name, s.setSecretOfPage(vault, in)
	})
	changes := map[string]func(vault, kind, name string, r *http.Request) error{
		"rotate": func(vault, kind, name string, r *http.Request) error {
			return s.Rotate(vault, kind, name, formText(r, "value"))
		},
		"disable": func(vault, kind, name string, r *http.Request) error {
			return s.Disable(vault, kind, name, r.PostForm.Get("version"), true)
		},
		"enable": func(vault, kind, name string, r *http.Request) error {
			return s.Disable(vault, kind, name, r.PostForm.Get("version"), false)
		},
		"delete": func(vault, kind, name string, _ *http.Request) error { return s.Delete(vault, kind, name, true) },
		"recover": func(vault, kind, name string, _ *http.Request) error {
			return s.Delete(vault, kind, name, false)
		},
	}
	failed := func(w http.ResponseWriter, r *http.Request, err error) { s.showObject(w, r, "", err) }
	for what, do := range changes {
		form("/page/vaults/{vault}/{kind}/{name}/"+what, what, failed, func(r *http.Request) (string, error) {
			vault, kind, name := r.PathValue("vault"), r.PathValue("kind"), r.PathValue("name")
			return "/page/vaults/" + vault + "/" + kind + "/" + name, do(vault, kind, name, r)
		})
	}
}

// guard answers requests for the control API and the page that no other site made: a browser says which site a request
// is of, and a name that is not the emulator's own may be one that its owner points at this address (DNS rebinding).
func (s *Server) guard(next http.Handler) http.Handler {
	refuse := func(w http.ResponseWriter, message string) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusForbidden)
		_, _ = w.Write(marshal(map[string]string{"error": message}))
	}
	protection := http.NewCrossOriginProtection()
	protection.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		refuse(w, "refused: the request is of another site")
	}))
	protected := protection.Handler(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		if host := hostname(r.Host); !s.controlName(host) {
			refuse(w, fmt.Sprintf("refused: %.100q is no name of the emulator: use an address, localhost or %s, or start it with "+
				"--control-host", host, ControlHost))
			return
		}
		protected.ServeHTTP(w, r)
		if err := s.persist(); err != nil {
			s.log.Error("what was changed is not kept", "error", err)
		}
	})
}

// controlName reports whether a host is a name of the emulator. Only names that no one can register are: addresses,
// names of one part, and those of clusters and of container networks.
func (s *Server) controlName(host string) bool {
	if net.ParseIP(strings.Trim(host, "[]")) != nil || !strings.Contains(host, ".") || host == ControlHost {
		return true
	}
	for _, suffix := range []string{".localhost", ".svc", ".cluster.local", ".internal"} {
		if strings.HasSuffix(host, suffix) {
			return true
		}
	}
	return slices.Contains(s.controlHosts, host)
}

func parseForm(w http.ResponseWriter, r *http.Request) error {
	r.Body = http.MaxBytesReader(w, r.Body, smallForm)
	if err := r.ParseForm(); err != nil {
		return errors.New("the form cannot be read, or is too large")
	}
	return nil
}

// formText is a field of several lines: a browser sends CR and LF for each line end.
func formText(r *http.Request, name string) string {
	return strings.ReplaceAll(r.PostForm.Get(name), "\r\n", "\n")
}

func formFault(r *http.Request) (f Fault, err error) {
	f = Fault{
		Kind:      r.PostForm.Get("kind"),
		Host:      strings.TrimSpace(r.PostForm.Get("host")),
		Operation: strings.TrimSpace(r.PostForm.Get("operation")),
		Name:      strings.TrimSpace(r.PostForm.Get("name")),
		Code:      r.PostForm.Get("code"),
	}
	for name, into := range map[string]*int{"status": &f.Status, "retryAfter": &f.RetryAfter, "count": &f.Count} {
		if text := r.PostForm.Get(name); text != "" {
			if *into, err = strconv.Atoi(text); err != nil {
				return f, fmt.Errorf("%s is not a number", name)
			}
		}
	}
	if text := r.PostForm.Get("delay"); text != "" {
		if err := f.Delay.UnmarshalText([]byte(text)); err != nil {
			return f, errors.New("write the delay as 500ms or 2s")
		}
	}
	return f, f.Validate()
}

// setSecretOfPage sets a secret under the service's limits.
func (s *Server) setSecretOfPage(vault string, in Secret) error {
	return s.withVault(vault, func(v *vaultState) error {
		switch {
		case !nameForm.MatchString(in.Name):
			return errors.New("a name is 1 to 127 letters, digits and hyphens")
		case len(in.Value) > maxSecret:
			return fmt.Errorf("a value has at most %d bytes", maxSecret)
		case len(in.ContentType) > maxContentType:
			return fmt.Errorf("a content type has at most %d bytes", maxContentType)
		}
		if err := v.vacantFor("secrets", in.Name); err != nil {
			return err
		}
		v.addSecret(in)
		return nil
	})
}

// vacantFor is vacant for changes that are no requests of the service.
func (v *vaultState) vacantFor(kind, name string) error {
	bad := v.vacant(route{kind: kind, noun: singular[kind], name: name})
	if bad == nil {
		return nil
	}
	if body, ok := bad.body.(problemBody); ok {
		return errors.New(body.Error.Message)
	}
	return errors.New("a new version cannot be made")
}

// Rotate makes a new version of an object that is like the current one: of a secret with the value, a random one where
// it is empty; of a key or a certificate with a new key.
func (s *Server) Rotate(vault, kind, name, value string) error {
	return s.withVault(vault, func(v *vaultState) error {
		o, err := v.find(kind, name)
		if err != nil {
			return err
		}
		if err := v.vacantFor(kind, name); err != nil {
			return err
		}
		current := o.current()
		switch kind {
		case "secrets":
			if len(value) > maxSecret {
				return fmt.Errorf("a value has at most %d bytes", maxSecret)
			}
			v.addSecret(Secret{Name: o.name, Value: cmp.Or(value, rand.Text()), ContentType: current.contentType, Tags: current.tags})
			return nil
		case "keys":
			return v.addKey(Key{
				Name: o.name, Type: current.jwk.Kty, Curve: current.jwk.Crv, Bits: current.jwk.bits, Tags: current.tags,
			})
		}
		leaf, err := x509.ParseCertificate(current.der)
		if err != nil || current.pending {
			return fmt.Errorf("certificate %s is not issued: enable it first", o.name)
		}
		policy := o.policy
		err = v.addCertificate(Certificate{
			Name: o.name, ContentType: current.contentType, KeyType: strings.TrimSuffix(current.jwk.Kty, "-HSM"),
			Subject: leaf.Subject.CommonName, NotExportable: current.notExportable, Tags: current.tags,
		})
		if err == nil {
			o.policy = policy
		}
		return err
	})
}

// RemoveFault removes one fault.
func (s *Server) RemoveFault(id string) error {
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	i := slices.IndexFunc(s.state.faults, func(f *Fault) bool { return f.ID == id })
	if i < 0 {
		return fmt.Errorf("there is no fault %.100q any more", id)
	}
	s.state.faults = slices.Delete(s.state.faults, i, i+1)
	return nil
}

// sendPage sends a page.
func (s *Server) sendPage(w http.ResponseWriter, name string, status int, data any) {
	var text bytes.Buffer
	if err := pages.ExecuteTemplate(&text, name, data); err != nil {
		s.log.Error("page", "error", err)
		http.Error(w, "the page could not be made", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(text.Bytes())
}

// top is what all pages have, and the status of the answer. The caller holds the lock.
func (s *Server) top(r *http.Request, title string, err error) (pageTop, int) {
	p := pageTop{Title: title, Done: done[r.URL.Query().Get("done")], Now: pageTime(s.state.now())}
	if err == nil {
		return p, http.StatusOK
	}
	p.Error = err.Error()
	return p, http.StatusBadRequest
}

func pageTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

func pageTags(tags map[string]string) string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(tags)) {
		all = append(all, name+"="+tags[name])
	}
	return strings.Join(all, ", ")
}

func (s *Server) showOverview(w http.ResponseWriter, r *http.Request, err error) {
	p, status := s.overview(r, err)
	s.sendPage(w, "overview", status, p)
}

func (s *Server) overview(r *http.Request, err error) (p overviewPage, status int) {
	st := s.state
	st.mu.Lock()
	defer st.mu.Unlock()
	p.pageTop, status = s.top(r, "Overview", err)
	p.Latency, p.Ahead, p.Total = st.latency, st.ahead, 0
	for _, n := range st.counts {
		p.Total += n
	}
	p.Kinds = slices.Sorted(maps.Keys(faultKinds))
	for _, f := range st.faults {
		p.Faults = append(p.Faults, *f)
	}
	for _, host := range slices.Sorted(maps.Keys(st.vaults)) {
		p.Vaults = append(p.Vaults, st.vaults[host].row())
	}
	p.Identities = st.identities()
	for _, request := range slices.Backward(st.requests) {
		if len(p.Requests) == shownRequests {
			break
		}
		p.Requests = append(p.Requests, requestRow{Request: request, At: pageTime(request.Time)})
	}
	return p, status
}

func (v *vaultState) row() vaultRow {
	row := vaultRow{Host: v.host, Tenant: v.tenant, Model: "roles (RBAC)", Network: cmp.Or(v.network, "open")}
	if v.policies {
		row.Model = "access policies"
	}
	for key, o := range v.objects {
		switch {
		case v.gone(o):
		case o.deleted:
			row.Deleted++
		case key.kind == "secrets":
			row.Secrets++
		case key.kind == "keys":
			row.Keys++
		case key.kind == "certificates":
			row.Certificates++
		}
	}
	return row
}

// identities are the applications and the managed identities with their permissions.
func (st *state) identities() (rows []identityRow) {
	grants := func(client string) (all []string) {
		for _, host := range slices.Sorted(maps.Keys(st.vaults)) {
			if permissions := st.vaults[host].grants[client]; len(permissions) > 0 {
				all = append(all, st.vaults[host].name+": "+strings.Join(permissions, ", "))
			}
		}
		return all
	}
	for _, tenant := range slices.Sorted(maps.Keys(st.tenants)) {
		for _, client := range slices.Sorted(maps.Keys(st.tenants[tenant])) {
			a := st.tenants[tenant][client]
			row := identityRow{ClientID: client, Tenant: tenant, Grants: grants(client)}
			if n := len(a.Secrets); n > 0 {
				row.By = append(row.By, fmt.Sprintf("client secret (%d)", n))
			}
			if n := len(a.certificates); n > 0 {
				row.By = append(row.By, fmt.Sprintf("certificate (%d)", n))
			}
			for _, f := range a.Federated {
				row.By = append(row.By, "federated: "+f.Subject+" of "+f.Issuer)
			}
			rows = append(rows, row)
		}
	}
	for _, m := range st.managed {
		by := "managed identity"
		if m.System {
			by = "system-assigned managed identity"
		}
		rows = append(rows, identityRow{ClientID: m.ClientID, By: []string{by}, Grants: grants(m.ClientID)})
	}
	return rows
}

func (s *Server) showVault(w http.ResponseWriter, r *http.Request, err error) {
	var p vaultPage
	var status int
	missing := s.inVault(r.PathValue("vault"), func(v *vaultState) error {
		v.settle()
		p.pageTop, status = s.top(r, "Vault "+v.name, err)
		p.Host = v.host
		for key, o := range v.objects {
			if v.gone(o) {
				continue
			}
			n := o.current()
			row := objectRow{
				Kind: key.kind, Noun: singular[key.kind], Name: o.name, Versions: len(o.versions), State: n.state(v.now()),
				Updated: pageTime(n.updated), Expires: pageTime(n.expires), Tags: pageTags(n.tags),
			}
			if o.deleted {
				row.State = "deleted"
			}
			p.Objects = append(p.Objects, row)
		}
		return nil
	})
	if missing != nil {
		s.missing(w, r, missing)
		return
	}
	slices.SortFunc(p.Objects, func(a, b objectRow) int {
		return cmp.Or(strings.Compare(a.Kind, b.Kind), strings.Compare(a.Name, b.Name))
	})
	s.sendPage(w, "vault", status, p)
}

// state is what a person wants to know of a version.
func (n *version) state(now time.Time) string {
	switch {
	case n.pending:
		return "not issued"
	case n.disabled:
		return "disabled"
	case !n.expires.IsZero() && now.After(n.expires):
		return "expired"
	case now.Before(n.notBefore):
		return "not valid yet"
	}
	return "enabled"
}

// what describes a version without its value.
func (n *version) what(kind string) string {
	switch {
	case kind == "keys" && n.jwk != nil:
		return strings.TrimSpace(n.jwk.Kty + " " + n.jwk.Crv)
	case kind == "certificates" && len(n.der) > 0:
		if leaf, err := x509.ParseCertificate(n.der); err == nil {
			return leaf.Subject.String()
		}
	}
	return n.contentType
}

// showObject shows an object, and the value of one version where it is asked for.
func (s *Server) showObject(w http.ResponseWriter, r *http.Request, show string, err error) {
	var p objectPage
	var status int
	missing := s.inVault(r.PathValue("vault"), func(v *vaultState) error {
		v.settle()
		kind := r.PathValue("kind")
		o, missing := v.find(kind, r.PathValue("name"))
		if missing != nil {
			return missing
		}
		noun := singular[kind]
		p.pageTop, status = s.top(r, strings.ToUpper(noun[:1])+noun[1:]+" "+o.name, err)
		p.Host, p.Kind, p.Noun, p.Name, p.Deleted, p.HasValue = v.host, kind, noun, o.name, o.deleted, kind == "secrets"
		for _, n := range slices.Backward(o.versions) {
			p.Versions = append(p.Versions, versionRow{
				ID: n.id, State: n.state(v.now()), Disabled: n.disabled, Created: pageTime(n.created), Updated: pageTime(n.updated),
				NotBefore: pageTime(n.notBefore), Expires: pageTime(n.expires), What: n.what(kind), Tags: pageTags(n.tags),
			})
			if p.HasValue && show != "" && n.id == show {
				p.Shown, p.ShownVersion, p.ShownValue = true, n.id, n.value
			}
		}
		return nil
	})
	if missing != nil {
		s.missing(w, r, missing)
		return
	}
	s.sendPage(w, "object", status, p)
}

// missing is the page of what is not there.
func (s *Server) missing(w http.ResponseWriter, r *http.Request, err error) {
	p, _ := s.overview(r, err)
	p.Title = "Not found"
	s.sendPage(w, "overview", http.StatusNotFound, p)
}
