# The images, for those who build with Docker, Podman or BuildKit:
#
#   docker build -t keyvault-csi .
#   docker build -t keyvault-controller --target keyvault-controller .
#   docker build -t keyvault-emulator --target keyvault-emulator .
#
# `make image` builds the same programs without any of these, reproducibly and with a bill of materials.

FROM --platform=$BUILDPLATFORM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
# TARGETOS and TARGETARCH are BuildKit's; the others are what `keyvault-csi version` prints.
ARG TARGETOS TARGETARCH
ARG VERSION COMMIT COMMITTED MODIFIED=false
RUN v=github.com/keyvault-csi/keyvault-csi-driver/internal/version && CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -buildvcs=false -mod=readonly -tags=grpcnotrace \
    -ldflags="-s -w -X $v.release=$VERSION -X $v.commit=$COMMIT -X $v.committed=$COMMITTED -X $v.modified=$MODIFIED" \
    -o bin/ ./cmd/keyvault-csi ./cmd/keyvault-render ./cmd/keyvault-controller ./cmd/keyvault-emulator

FROM scratch AS keyvault-emulator
COPY --from=build /src/bin/keyvault-emulator /keyvault-emulator
USER 0:0
ENTRYPOINT ["/keyvault-emulator"]

FROM scratch AS keyvault-controller
COPY --from=build /src/bin/keyvault-controller /keyvault-controller
COPY --from=build /src/bin/keyvault-render /keyvault-render
USER 65532:65532
ENTRYPOINT ["/keyvault-controller"]

FROM scratch AS keyvault-csi
COPY --from=build /src/bin/keyvault-csi /keyvault-csi
COPY --from=build /src/bin/keyvault-render /keyvault-render
USER 0:0
ENTRYPOINT ["/keyvault-csi"]
