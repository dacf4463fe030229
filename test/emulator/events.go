package emulator

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	// eventGridOrigin is what Event Grid calls itself in the handshake of CloudEvents.
	eventGridOrigin = "eventgrid.azure.net"
	// eventGridClient is the application id of Event Grid, which its tokens are for.
	eventGridClient = "4962773b-9cdb-44cf-a8bf-237846a00ab7"
	// storageAudience is that of tokens for storage queues.
	storageAudience = "https://storage.azure.com"
	// mostEvents bounds the events that wait for one target.
	mostEvents = 10_000
	// eventTimeout bounds one request to a target.
	eventTimeout = 10 * time.Second
)

// EventTarget is where events go: a storage queue or a web hook, as a subscription of Event Grid has it.
type EventTarget struct {
	// URL is that of the queue (https://ACCOUNT.queue.core.windows.net/QUEUE, which may have a shared access signature) or of the hook.
	URL string
	// Queue is true for a storage queue.
	Queue bool
	// EventGridSchema is true for the Event Grid schema; false for CloudEvents 1.0.
	EventGridSchema bool
	// Audience is that of the token of deliveries to a hook; none is sent where empty.
	Audience string
}

// ParseEventTarget reads a target: a URL, whose fragment has options separated by commas: queue, schema=eventgrid, audience=TEXT. A host
// ACCOUNT.queue.SUFFIX is a queue without the option.
func ParseEventTarget(text string) (t EventTarget, err error) {
	address, options, _ := strings.Cut(text, "#")
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.Scheme != "https" && (u.Scheme != "http" || !loopback(u.Hostname())) {
		return t, fmt.Errorf("event target %q: write https://HOST/PATH", address)
	}
	t = EventTarget{URL: address, Queue: strings.Contains(u.Host, ".queue.")}
	for option := range strings.SplitSeq(options, ",") {
		audience, isAudience := strings.CutPrefix(option, "audience=")
		switch {
		case option == "":
		case option == "queue":
			t.Queue = true
		case option == "schema=eventgrid":
			t.EventGridSchema = true
		case option == "schema=cloudevents":
		case isAudience && audience != "":
			t.Audience = audience
		default:
			return t, fmt.Errorf("event target %s: option %q is not one of queue, schema=eventgrid and audience=TEXT", address, option)
		}
	}
	return t, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// event is what happened to an object.
type event struct {
	id, host, vault, tenant, kind, name, version string
	at                                           time.Time
	notBefore, expires                           time.Time
}

// sender delivers events to one target, in order.
type sender struct {
	target EventTarget
	server *Server
	client *http.Client
	log    *slog.Logger

	mu      sync.Mutex
	waiting []event
	wake    chan struct{}
}

// SendEvents makes a target get an event for each new version from now on, until the server closes. CA are authorities in PEM that its
// certificate may be of, beside the system's and the emulator's own. Start must have been called.
func (s *Server) SendEvents(target EventTarget, ca []byte) {
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	pool.AppendCertsFromPEM(s.authority.pem)
	pool.AppendCertsFromPEM(ca)
	one := &sender{
		target: target, server: s, log: s.log, wake: make(chan struct{}, 1),
		client: &http.Client{
			Timeout:   eventTimeout,
			Transport: &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}},
		},
	}
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	s.state.senders = append(s.state.senders, one)
	s.work.Go(func() { one.run(s.ctx) })
}

// created tells all targets of a new version. The caller holds the lock.
func (st *state) created(v *vaultState, kind, name string, n *version) {
	e := event{
		id: newID(), host: v.host, vault: v.name, tenant: v.tenant, kind: kind, name: name, version: n.id, at: n.created,
		notBefore: n.notBefore, expires: n.expires,
	}
	for _, one := range st.senders {
		one.put(e)
	}
}

func (s *sender) put(e event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waiting) >= mostEvents {
		s.log.Error("an event is lost: too many wait", "target", s.name())
		return
	}
	s.waiting = append(s.waiting, e)
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *sender) next() (e event, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waiting) == 0 {
		return e, false
	}
	e = s.waiting[0]
	s.waiting = s.waiting[1:]
	return e, true
}

// name is the target without what may be a signature.
func (s *sender) name() string {
	address, _, _ := strings.Cut(s.target.URL, "?")
	return address
}

// run delivers until ctx ends. What fails is tried again, as Event Grid does, but sooner.
func (s *sender) run(ctx context.Context) {
	defer s.client.CloseIdleConnections()
	greeted := s.target.Queue
	for {
		e, ok := s.next()
		if !ok {
			select {
			case <-ctx.Done():
				return
			case <-s.wake:
			}
			continue
		}
		for wait := 100 * time.Millisecond; ; wait = min(2*wait, 10*time.Second) {
			var err error
			if !greeted {
				err = s.greet(ctx, e)
				greeted = err == nil
			}
			if err == nil {
				err = s.deliver(ctx, e)
			}
			if err == nil {
				break
			}
			s.log.Warn("an event is not delivered; it is tried again", "target", s.name(), "error", err)
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait):
			}
		}
	}
}

// objectType is how events name a kind.
func objectType(kind string) string {
	return map[string]string{"secrets": "Secret", "keys": "Key", "certificates": "Certificate"}[kind]
}

// data is that of the event: the times are text, as the documentation shows them.
func (e *event) data() map[string]any {
	seconds := func(t time.Time) any {
		if t.IsZero() {
			return nil
		}
		return fmt.Sprint(t.Unix())
	}
	return map[string]any{
		"Id":        "https://" + e.host + "/" + e.kind + "/" + e.name + "/" + e.version,
		"VaultName": e.vault, "ObjectType": objectType(e.kind), "ObjectName": e.name, "Version": e.version,
		"NBF": seconds(e.notBefore), "EXP": seconds(e.expires),
	}
}

// body is the event in the target's schema.
func (s *sender) body(e *event, kind string, data map[string]any) ([]byte, string) {
	topic := "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/emulator/providers/Microsoft.KeyVault/vaults/" + e.vault
	if s.target.EventGridSchema {
		return marshal([]any{map[string]any{
			"id": e.id, "topic": topic, "subject": e.name, "eventType": kind, "eventTime": e.at.UTC().Format(time.RFC3339Nano), "data": data,
			"dataVersion": "1", "metadataVersion": "1",
		}}), "application/json; charset=utf-8"
	}
	return marshal(map[string]any{
		"id": e.id, "source": topic, "specversion": "1.0", "type": kind, "subject": e.name, "time": e.at.UTC().Format(time.RFC3339Nano), "data": data,
	}), "application/cloudevents+json; charset=utf-8"
}

// greet makes the handshake of a hook.
func (s *sender) greet(ctx context.Context, e event) error {
	if !s.target.EventGridSchema {
		answer, _, err := s.send(ctx, http.MethodOptions, s.target.URL, nil, e.tenant, map[string]string{"WebHook-Request-Origin": eventGridOrigin})
		if err != nil {
			return err
		}
		if allowed := answer.header.Get("WebHook-Allowed-Origin"); answer.status/100 != 2 || allowed != eventGridOrigin && allowed != "*" {
			return fmt.Errorf("the handshake of CloudEvents is answered with %d, WebHook-Allowed-Origin %q", answer.status, allowed)
		}
		return nil
	}
	code := newID()
	body, kind := s.body(&event{id: newID(), vault: e.vault, at: e.at}, "Microsoft.EventGrid.SubscriptionValidationEvent", map[string]any{"validationCode": code})
	answer, text, err := s.send(ctx, http.MethodPost, s.target.URL, body, e.tenant,
		map[string]string{"aeg-event-type": "SubscriptionValidation", "Content-Type": kind})
	if err != nil {
		return err
	}
	var given struct {
		Response string `json:"validationResponse"`
	}
	if err := json.Unmarshal(text, &given); err != nil || answer.status/100 != 2 || given.Response != code {
		return fmt.Errorf("the handshake of the Event Grid schema is answered with %d, validationResponse %q", answer.status, given.Response)
	}
	return nil
}

// deliver sends one event.
func (s *sender) deliver(ctx context.Context, e event) error {
	body, kind := s.body(&e, "Microsoft.KeyVault."+objectType(e.kind)+"NewVersionCreated", e.data())
	address, header := s.target.URL, map[string]string{"aeg-event-type": "Notification", "Content-Type": kind}
	if s.target.Queue {
		if s.target.EventGridSchema {
			body = bytes.TrimSuffix(bytes.TrimPrefix(body, []byte("[")), []byte("]")) // one message an event
		}
		text := html.EscapeString(base64.StdEncoding.EncodeToString(body))
		body = []byte("<QueueMessage><MessageText>" + text + "</MessageText></QueueMessage>")
		path, query, signed := strings.Cut(address, "?")
		address = strings.TrimSuffix(path, "/") + "/messages"
		if signed {
			address += "?" + query
		}
		header = map[string]string{"Content-Type": "application/xml", "x-ms-version": "2024-11-04", "x-ms-date": time.Now().UTC().Format(http.TimeFormat)}
	}
	answer, text, err := s.send(ctx, http.MethodPost, address, body, e.tenant, header)
	if err != nil {
		return err
	}
	if answer.status/100 != 2 {
		return fmt.Errorf("answered with %d: %.200q", answer.status, text)
	}
	return nil
}

// answered is an answer beside its body.
type answered struct {
	status int
	header http.Header
}

// send makes a request with the token that the target takes.
func (s *sender) send(
	ctx context.Context, method, address string, body []byte, tenant string, header map[string]string,
) (a answered, text []byte, err error) {
	request, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(body))
	if err != nil {
		return a, nil, errors.New("the target is no URL")
	}
	for name, value := range header {
		request.Header.Set(name, value)
	}
	switch {
	case s.target.Queue && !strings.Contains(address, "sig="):
		request.Header.Set("Authorization", "Bearer "+s.server.EventToken(tenant, storageAudience))
	case !s.target.Queue && s.target.Audience != "":
		request.Header.Set("Authorization", "Bearer "+s.server.EventToken(tenant, s.target.Audience))
	}
	answer, err := s.client.Do(request)
	if err != nil {
		if failed, ok := errors.AsType[*url.Error](err); ok {
			err = failed.Err // without the URL, which may have a signature
		}
		return a, nil, err
	}
	defer func() { _ = answer.Body.Close() }()
	text, err = io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	return answered{answer.StatusCode, answer.Header}, text, err
}

// publicSigner signs tokens whose keys anybody may ask for: those of Event Grid.
type publicSigner struct {
	once sync.Once
	key  *rsa.PrivateKey
	err  error
}

// keyID is that of the public signer's key.
const keyID = "emulator"

func (p *publicSigner) private() (*rsa.PrivateKey, error) {
	p.once.Do(func() { p.key, p.err = rsa.GenerateKey(rand.Reader, 2048) })
	return p.key, p.err
}

// EventToken is a token of Event Grid for an audience, as a tenant's Entra ID issues it. Its keys are those of the tenant's OpenID metadata.
func (s *Server) EventToken(tenant, audience string) string {
	s.state.mu.Lock()
	now, lifetime := s.state.now(), s.state.lifetime
	s.state.mu.Unlock()
	key, err := s.public.private()
	if err != nil {
		panic(err) // the random source of the machine does not fail
	}
	token := jwt.NewWithClaims(jwt.SigningMethodRS256, accessClaims{
		RegisteredClaims: jwt.RegisteredClaims{
			ID: newID(), Issuer: v1Issuer(tenant), Subject: eventGridClient,
			IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now.Add(-time.Minute)), ExpiresAt: jwt.NewNumericDate(now.Add(lifetime)),
		},
		Audience: audience, AppID: eventGridClient, OID: eventGridClient, Tenant: tenant,
	})
	token.Header["kid"] = keyID
	signed, err := token.SignedString(key)
	if err != nil {
		panic(err) // an RSA key signs
	}
	return signed
}

// v1Issuer is the issuer of access tokens of version 1.
func v1Issuer(tenant string) string { return "https://sts.windows.net/" + tenant + "/" }

// publicKeys answers with the keys of the OpenID metadata.
func (s *Server) publicKeys(x *exchange) reply {
	key, err := s.public.private()
	if err != nil {
		panic(err) // the random source of the machine does not fail
	}
	number := func(n []byte) string { return base64.RawURLEncoding.EncodeToString(n) }
	return x.discoverable(map[string]any{"keys": []any{map[string]string{
		"kty": "RSA", "use": "sig", "kid": keyID, "n": number(key.N.Bytes()), "e": number([]byte{1, 0, 1}),
	}}})
}
