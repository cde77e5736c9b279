// Drives the gateway with gorilla/websocket, a client that knows nothing of it.
// Usage: client ws://127.0.0.1:PORT [PREFIX]   (PREFIX: only checks whose names begin so)
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"reflect"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

const (
	deadline = 20 * time.Second
	mib      = 1024 * 1024
)

var base string

type object = map[string]interface{}

// client is a connection on which every step has a deadline. A failed step panics; check recovers.
type client struct {
	ws   *websocket.Conn
	name string
}

func dial(path string, protocols ...string) (*client, *http.Response, error) {
	dialer := websocket.Dialer{
		HandshakeTimeout:  deadline,
		Subprotocols:      protocols,
		WriteBufferSize:   1024,
		EnableCompression: true,
	}
	ws, response, err := dialer.Dial(base+path, nil)
	if err != nil {
		return nil, response, err
	}
	return &client{ws: ws}, response, nil
}

func open(path string, protocols ...string) *client {
	c, _, err := dial(path, protocols...)
	must(err, "opening "+path)
	return c
}

// join connects as user, reads `connected` and joins rooms.
func join(user string, rooms ...string) *client {
	c := open("/ws?user=" + user)
	connected := c.json()
	want("type", connected["type"], "connected")
	c.name = connected["client"].(string)
	for _, room := range rooms {
		c.ok(object{"type": "join", "room": room})
	}
	return c
}

func (c *client) send(kind int, payload []byte) {
	must(c.ws.SetWriteDeadline(time.Now().Add(deadline)), "a deadline")
	must(c.ws.WriteMessage(kind, payload), "sending")
}

func (c *client) sendJSON(command object) {
	text, err := json.Marshal(command)
	must(err, "encoding")
	c.send(websocket.TextMessage, text)
}

func (c *client) read() (int, []byte, error) {
	must(c.ws.SetReadDeadline(time.Now().Add(deadline)), "a deadline")
	return c.ws.ReadMessage()
}

func (c *client) next() (int, []byte) {
	kind, payload, err := c.read()
	must(err, "a message")
	return kind, payload
}

func (c *client) json() object {
	kind, payload := c.next()
	want("kind of frame", kind, websocket.TextMessage)
	var message object
	must(json.Unmarshal(payload, &message), string(payload))
	return message
}

// call sends a command and reads its answer, which must come next.
func (c *client) call(command object) object {
	command["id"] = "call"
	c.sendJSON(command)
	answer := c.json()
	want("id", answer["id"], "call")
	return answer
}

func (c *client) ok(command object) object {
	answer := c.call(command)
	want(fmt.Sprint(answer), answer["type"], "ok")
	return answer
}

// closeCode reads to the end of the connection and tells with which code the gateway closed it.
func (c *client) closeCode() int {
	defer c.ws.Close()
	for {
		_, _, err := c.read()
		var closed *websocket.CloseError
		if errors.As(err, &closed) {
			return closed.Code
		}
		must(err, "a close frame")
	}
}

func (c *client) end(code int) {
	payload := websocket.FormatCloseMessage(code, "bye")
	must(c.ws.WriteControl(websocket.CloseMessage, payload, time.Now().Add(deadline)), "closing")
	want("close code", c.closeCode(), code)
}

func echoes(kind int, payload []byte) {
	c := open("/echo")
	c.send(kind, payload)
	gotKind, got := c.next()
	want("kind of frame", gotKind, kind)
	if !bytes.Equal(got, payload) {
		panic("came back changed")
	}
	c.end(1000)
}

func must(err error, what string) {
	if err != nil {
		panic(fmt.Sprintf("%s: %v", what, err))
	}
}

func want(what string, got, wanted interface{}) {
	if !reflect.DeepEqual(got, wanted) {
		panic(fmt.Sprintf("%s: wanted %v, got %v", what, wanted, got))
	}
}

var checks = []struct {
	name string
	run  func()
}{
	{"echo text", func() { echoes(websocket.TextMessage, []byte("hello, wörld 🌊")) }},
	{"echo binary", func() { echoes(websocket.BinaryMessage, []byte{0, 1, 127, 128, 255}) }},
	{"echo empty", func() { echoes(websocket.TextMessage, []byte{}) }},
	{"echo 1 MiB of text", func() { echoes(websocket.TextMessage, bytes.Repeat([]byte("ü"), mib/2)) }},
	{"echo 1 MiB of binary", func() { echoes(websocket.BinaryMessage, bytes.Repeat([]byte{0xa5}, mib)) }},
	{"echo fragments", func() {
		c := open("/echo")
		// The writer sends a frame whenever its buffer of 1 KiB is full.
		writer, err := c.ws.NextWriter(websocket.TextMessage)
		must(err, "a writer")
		var sent bytes.Buffer
		for n := 0; n < 2000; n++ {
			piece := fmt.Sprintf("%d,", n)
			sent.WriteString(piece)
			_, err = writer.Write([]byte(piece))
			must(err, "writing")
		}
		must(writer.Close(), "the last fragment")
		_, got := c.next()
		want("fragments", string(got), sent.String())
		c.end(1000)
	}},
	{"echo many in order", func() {
		c := open("/echo")
		for n := 0; n < 500; n++ {
			c.send(websocket.TextMessage, []byte(fmt.Sprintf("message %d", n)))
		}
		for n := 0; n < 500; n++ {
			_, got := c.next()
			want("order", string(got), fmt.Sprintf("message %d", n))
		}
		c.end(1000)
	}},
	{"echo ping and pong", func() {
		c := open("/echo")
		pong := ""
		c.ws.SetPongHandler(func(payload string) error {
			pong = payload
			return nil
		})
		must(c.ws.WriteControl(websocket.PingMessage, []byte("tide"), time.Now().Add(deadline)), "ping")
		// The echo comes behind the pong, and reading it is what runs the handler.
		c.send(websocket.TextMessage, []byte("behind"))
		c.next()
		want("pong", pong, "tide")
		c.end(1000)
	}},
	{"echo close codes", func() {
		for _, code := range []int{1000, 3000, 4999} {
			open("/echo").end(code)
		}
	}},
	{"close 1007 for text that is not UTF-8", func() {
		c := open("/echo")
		c.send(websocket.TextMessage, []byte{'h', 0xff})
		want("close code", c.closeCode(), 1007)
	}},
	{"close 1009 for a message that is too big", func() {
		c := open("/echo")
		// The gateway judges the header and may close while the payload is still being sent.
		var sending sync.WaitGroup
		sending.Add(1)
		go func() {
			defer sending.Done()
			_ = c.ws.WriteMessage(websocket.BinaryMessage, make([]byte, 4*mib))
		}()
		want("close code", c.closeCode(), 1009)
		sending.Wait()
	}},
	{"subprotocol choice", func() {
		plain := open("/ws")
		want("subprotocol", plain.ws.Subprotocol(), "")
		chosen := open("/ws", "unknown.v9", "tidegate.v1.json")
		want("subprotocol", chosen.ws.Subprotocol(), "tidegate.v1.json")
		_, response, err := dial("/ws", "unknown.v9")
		if err == nil {
			panic("an unknown subprotocol was taken")
		}
		want("status", response.StatusCode, 400)
		plain.end(1000)
		chosen.end(1000)
	}},
	{"rooms join, publish, receive", func() {
		alice := join("alice", "go-talk")
		bob := join("bob", "go-talk")
		want("type", alice.json()["type"], "user_joined")
		data := object{"text": "hi", "list": []interface{}{1.0, 2.5, nil}}
		alice.sendJSON(object{"type": "publish", "room": "go-talk", "data": data})
		for _, c := range []*client{alice, bob} {
			message := c.json()
			want("type", message["type"], "message")
			want("seq", message["seq"], 1.0)
			want("data", message["data"], data)
			want("from", message["from"], object{"client": alice.name, "user": "alice"})
		}
		alice.end(1000)
		bob.end(1000)
	}},
	{"rooms presence", func() {
		alice := join("alice", "go-here")
		bob := join("bob", "go-here")
		joined := alice.json()
		want("type", joined["type"], "user_joined")
		want("user", joined["user"], "bob")
		presence := alice.ok(object{"type": "presence", "room": "go-here"})
		var users []string
		for _, member := range presence["members"].([]interface{}) {
			users = append(users, member.(object)["user"].(string))
		}
		sort.Strings(users)
		want("users", users, []string{"alice", "bob"})
		bob.end(1000)
		left := alice.json()
		want("type", left["type"], "user_left")
		want("user", left["user"], "bob")
		want("members", left["members"], 1.0)
		alice.end(1000)
	}},
	{"rooms bad JSON is an error, not an end", func() {
		alice := join("alice")
		alice.send(websocket.TextMessage, []byte("{not json"))
		failure := alice.json()
		want("type", failure["type"], "error")
		want("code", failure["code"], "PARSE_ERROR")
		want("data", alice.ok(object{"type": "echo", "data": 7})["data"], 7.0)
		alice.end(1000)
	}},
	{"rooms raw relays bytes", func() {
		one := open("/ws?room=go-raw", "tidegate.v1.raw")
		two := open("/ws/go-raw", "tidegate.v1.raw")
		want("subprotocol", two.ws.Subprotocol(), "tidegate.v1.raw")
		one.send(websocket.TextMessage, []byte("as it came"))
		kind, got := two.next()
		want("text", string(got), "as it came")
		want("kind of frame", kind, websocket.TextMessage)
		two.send(websocket.BinaryMessage, []byte{9, 0, 255})
		kind, got = one.next()
		want("bytes", got, []byte{9, 0, 255})
		want("kind of frame", kind, websocket.BinaryMessage)
		one.end(1000)
		two.end(1000)
	}},
	{"compression in every agreement", func() {
		text := strings.Repeat("ebb and flow, wörld ", 300)
		var clients []*client
		for _, compresses := range []bool{true, false, true} {
			dialer := websocket.Dialer{HandshakeTimeout: deadline, EnableCompression: compresses}
			ws, response, err := dialer.Dial(base+"/ws/go-deflate?room=go-deflate", http.Header{
				"Sec-Websocket-Protocol": {"tidegate.v1.raw"},
			})
			must(err, "opening")
			answer := response.Header.Get("Sec-Websocket-Extensions")
			want("answer", strings.HasPrefix(answer, "permessage-deflate"), compresses)
			clients = append(clients, &client{ws: ws})
		}
		for n, from := range clients {
			// What comes back is what was sent, compressed or not, and at whichever level.
			must(from.ws.SetCompressionLevel(1+n*4), "a level")
			from.send(websocket.TextMessage, []byte(text))
			from.ws.EnableWriteCompression(false)
			from.send(websocket.BinaryMessage, []byte(text))
			for _, to := range clients {
				if to == from {
					continue
				}
				for _, wanted := range []int{websocket.TextMessage, websocket.BinaryMessage} {
					kind, got := to.next()
					want("kind of frame", kind, wanted)
					want("text", string(got) == text, true)
				}
			}
		}
		for _, c := range clients {
			c.end(1000)
		}
	}},
	{"rooms many clients see one order", func() {
		const members, each = 20, 20
		var clients []*client
		for n := 0; n < members; n++ {
			clients = append(clients, join(fmt.Sprintf("user-%d", n), "go-many"))
		}
		for m := 0; m < each; m++ {
			for _, c := range clients {
				c.sendJSON(object{"type": "publish", "room": "go-many", "data": m})
			}
		}
		var first []string
		for n, c := range clients {
			var stream []string
			for len(stream) < members*each {
				message := c.json()
				if message["type"] != "message" {
					continue
				}
				want("seq", message["seq"], float64(len(stream)+1))
				from := message["from"].(object)["client"]
				stream = append(stream, fmt.Sprint(message["seq"], from, message["data"]))
			}
			if n == 0 {
				first = stream
			}
			want("order", stream, first)
		}
		for _, c := range clients {
			c.end(1000)
		}
	}},
}

// check runs one check and prints its line.
func check(name string, run func()) (passed bool) {
	defer func() {
		if failure := recover(); failure != nil {
			fmt.Printf("FAIL %s: %v\n", name, failure)
			return
		}
		fmt.Printf("ok   %s\n", name)
		passed = true
	}()
	run()
	return
}

func main() {
	base = os.Args[1]
	prefix := ""
	if len(os.Args) > 2 {
		prefix = os.Args[2]
	}
	failed := 0
	for _, entry := range checks {
		if strings.HasPrefix(entry.name, prefix) && !check(entry.name, entry.run) {
			failed++
		}
	}
	if failed > 0 {
		os.Exit(1)
	}
}
