package kube

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
)

// A list of many classes: a page that fails, hangs or is too large is asked for again, smaller where that helps, in bounded time; what
// was read before one that fails for good is kept.
func TestPages(t *testing.T) {
	const classes = 1200
	gone := failed(http.StatusGone, metav1.StatusReasonExpired, "the provided continue parameter is too old")
	gone.Continue = "800"
	tests := map[string]struct {
		// fault answers the page from that class on; tries counts how often it was asked for.
		fault func(r *http.Request, from, limit, tries int) (*http.Response, error)
		want  int
		most  time.Duration
		err   func(error) bool
	}{
		"all is well": {want: classes},
		"one page hangs with so many classes": {func(r *http.Request, from, limit, _ int) (*http.Response, error) {
			if from < 500 || limit < 200 {
				return nil, nil
			}
			<-r.Context().Done()
			return nil, r.Context().Err()
		}, classes, 2 * pageTimeout, nil},
		"one page is broken twice": {func(r *http.Request, from, _, tries int) (*http.Response, error) {
			if from != 500 || tries > 2 {
				return nil, nil
			}
			return answer(r, 500, failed(500, metav1.StatusReasonInternalError, "no")), nil
		}, classes, pageTimeout, nil},
		"one page hangs for good": {func(r *http.Request, from, _, _ int) (*http.Response, error) {
			if from < 500 {
				return nil, nil
			}
			<-r.Context().Done()
			return nil, r.Context().Err()
		}, 500, pageTries*pageTimeout + 20*time.Second, func(err error) bool { return err != nil }},
		"refused for good": {func(r *http.Request, from, _, _ int) (*http.Response, error) {
			if from < 500 {
				return nil, nil
			}
			return answer(r, 403, failed(403, metav1.StatusReasonForbidden, "no")), nil
		}, 500, time.Second, apierrors.IsForbidden},
		"the state of the first page is forgotten": {func(r *http.Request, from, _, tries int) (*http.Response, error) {
			if from != 500 || tries > 1 {
				return nil, nil
			}
			return answer(r, 410, gone), nil
		}, 900, time.Second, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, tries := newFakeAPI(), map[int]int{}
				a.refuses(func(_, _ string, r *http.Request) (*http.Response, error) {
					from, _ := strconv.Atoi(r.URL.Query().Get("continue"))
					limit, _ := strconv.Atoi(r.URL.Query().Get("limit"))
					tries[from]++
					if tt.fault != nil {
						if answered, err := tt.fault(r, from, limit, tries[from]); answered != nil || err != nil {
							return answered, err
						}
					}
					page := &v1.SecretProviderClassList{
						TypeMeta: metav1.TypeMeta{APIVersion: groupVersion().String(), Kind: "SecretProviderClassList"},
					}
					for i := from; i < min(from+limit, classes); i++ {
						page.Items = append(page.Items, v1.SecretProviderClass{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint(i)}})
					}
					if from+limit < classes {
						page.Continue = strconv.Itoa(from + limit)
					}
					return answer(r, http.StatusOK, page), nil
				})
				start, got := time.Now(), map[string]bool{}
				c := Caller{api: a.client(t)}
				err := c.api.eachPage(t.Context(), "", func(page *v1.SecretProviderClassList) error {
					for i := range page.Items {
						if got[page.Items[i].Name] {
							t.Errorf("%s came twice", page.Items[i].Name)
						}
						got[page.Items[i].Name] = true
					}
					return nil
				})
				if tt.err == nil && err != nil || tt.err != nil && !tt.err(err) {
					t.Errorf("error %v", err)
				}
				if len(got) != tt.want || time.Since(start) > tt.most {
					t.Errorf("%d classes after %v", len(got), time.Since(start))
				}
				stop := errors.New("enough")
				if err := c.EachClass(t.Context(), "", func(*v1.SecretProviderClass) error { return stop }); !errors.Is(err, stop) {
					t.Errorf("%v", err)
				}
			})
		})
	}
}
