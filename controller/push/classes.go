package push

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/safe"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
)

const (
	// objectIndex finds classes by the objects that they use: HOST/NAME. The wildcard is in the place of what the class does not say.
	objectIndex = "keyvault-csi.objects"
	wildcard    = "*"
	// podsVault takes the place of a vault that the Pods of a class name in their volumeAttributes.
	podsVault = "of-the-pod"
	// podsTenant takes the place of a tenant that they name.
	podsTenant = "00000000-0000-0000-0000-000000000001"
)

// uses says what one class gets from vaults.
type uses struct {
	// objects are the names in lower case by host; selections those that are found by matching.
	objects    map[string]map[string]bool
	selections map[string][]*class.Selector
	// requests is how many requests one refresh by one identity needs, by host.
	requests map[string]int
}

// parser reads classes as the provider does.
type parser struct {
	options class.Options
	safe    safe.Handler
}

// uses reads a class. It is false where no node can use the class.
func (p *parser) uses(c *v1.SecretProviderClass) (u uses, ok bool) {
	if !class.Served(c.Spec.Provider) {
		return uses{}, false
	}
	parsed, mistakes, _ := class.Parse(c.Spec.Parameters, p.options)
	anyObject := false
	if len(mistakes) > 0 {
		// Pods can set what the class leaves out. Which of them do is not known here: every vault, and every object, may be meant.
		parameters := maps.Clone(c.Spec.Parameters)
		if parameters == nil {
			parameters = map[string]string{}
		}
		if strings.TrimSpace(parameters["keyvaultName"]+parameters["keyvaultURI"]) == "" {
			parameters["keyvaultName"] = podsVault
		}
		if strings.TrimSpace(parameters["tenantID"]+parameters["tenantId"]) == "" {
			parameters["tenantID"] = podsTenant
		}
		if anyObject = strings.TrimSpace(parameters["objects"]) == ""; anyObject {
			parameters["objects"] = "array:\n  - |\n    objectName: any\n    objectType: secret\n"
		}
		if parsed, mistakes, _ = class.Parse(parameters, p.options); len(mistakes) > 0 {
			return uses{}, false
		}
	}
	u = uses{objects: map[string]map[string]bool{}, selections: map[string][]*class.Selector{}, requests: map[string]int{}}
	for i := range parsed.Objects {
		o := &parsed.Objects[i]
		for _, base := range append([]string{o.VaultURL}, o.Fallbacks...) {
			u.add(hostOf(base), o, anyObject)
		}
	}
	return u, true
}

// add notes an object.
func (u *uses) add(host string, o *class.Object, anyObject bool) {
	if u.objects[host] == nil {
		u.objects[host] = map[string]bool{}
	}
	switch {
	case anyObject:
		u.objects[host][wildcard] = true
	case o.Selector != nil:
		u.selections[host] = append(u.selections[host], o.Selector)
	case o.Version == "" || o.History > 1: // a version that is named does not change
		u.objects[host][strings.ToLower(o.Name)] = true
	}
	u.requests[host] += max(1, o.History)
	if o.Selector != nil {
		u.requests[host] += o.Selector.Limit
	}
}

// hostOf is the host of a vault's base URL, or wildcard where the Pods name it.
func hostOf(base string) string {
	u, err := url.Parse(base)
	if err != nil {
		return wildcard
	}
	host := strings.ToLower(u.Hostname())
	if strings.HasPrefix(host, podsVault+".") {
		return wildcard
	}
	return host
}

// keys are those of the index. HOST alone says that the class uses the vault. It is called by the cache, which a panic would end.
func (p *parser) keys(o client.Object) (keys []string) {
	c, ok := o.(*v1.SecretProviderClass)
	if !ok {
		return nil
	}
	var u uses
	if err := p.safe.Do(context.Background(), "index a class", func() error {
		u, ok = p.uses(c)
		return nil
	}); err != nil || !ok {
		return nil
	}
	for host, names := range u.objects {
		keys = append(keys, host)
		for name := range names {
			keys = append(keys, host+"/"+name)
		}
		if len(u.selections[host]) > 0 {
			keys = append(keys, host+"/"+wildcard)
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// has reports whether the class may use an object.
func (u *uses) has(host, name string) bool {
	for _, at := range []string{host, wildcard} {
		if u.objects[at][name] || u.objects[at][wildcard] {
			return true
		}
		for _, s := range u.selections[at] {
			if s.Named(name) {
				return true
			}
		}
	}
	return false
}

// found is a class that an event is about.
type found struct {
	class *v1.SecretProviderClass
	uses  uses
}

// find returns the classes that use an object, and whether any class uses its vault.
func (r *refresher) find(ctx context.Context, host, name string) (classes []found, vault bool, err error) {
	seen := map[client.ObjectKey]bool{}
	for _, key := range []string{host + "/" + name, host + "/" + wildcard, wildcard + "/" + name, wildcard + "/" + wildcard} {
		list, err := r.list(ctx, key)
		if err != nil {
			return nil, false, err
		}
		for i := range list {
			c := &list[i]
			if seen[client.ObjectKeyFromObject(c)] {
				continue
			}
			seen[client.ObjectKeyFromObject(c)] = true
			if u, ok := r.parser.uses(c); ok && u.has(host, name) {
				classes = append(classes, found{class: c, uses: u})
			}
		}
	}
	if len(classes) > 0 {
		return classes, true, nil
	}
	users, err := r.list(ctx, host)
	return nil, len(users) > 0, err
}

func (r *refresher) list(ctx context.Context, key string) ([]v1.SecretProviderClass, error) {
	var list v1.SecretProviderClassList
	if err := r.reader.List(ctx, &list, client.MatchingFields{objectIndex: key}, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("classes that use %s: %w", key, err)
	}
	return list.Items, nil
}
