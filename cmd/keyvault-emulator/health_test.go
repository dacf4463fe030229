package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestHealth(t *testing.T) {
	ask := func(address string) error {
		c := command()
		c.SetArgs([]string{"health", "--listen", address})
		c.SetErr(new(strings.Builder))
		return c.ExecuteContext(t.Context())
	}
	p := launch(t)
	t.Setenv("HTTP_PROXY", "http://192.0.2.1:1")
	_, port, _ := strings.Cut(p.address, ":")
	for _, address := range []string{p.address, ":" + port, "0.0.0.0:" + port} {
		if err := ask(address); err != nil {
			t.Errorf("%s: %v", address, err)
		}
	}
	p.kill()
	_ = p.command.Wait()
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	for address, want := range map[string]string{
		p.address: "no emulator answers: ", strings.TrimPrefix(other.URL, "http://"): "404 Not Found: is it an emulator?", "127.0.0.1:0": "name the port",
	} {
		if err := ask(address); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", address, err)
		}
	}
}
