%% ranch: -run ranch_echo main PORT MODE
%% recv: a process that receives and sends. active: bytes come as messages, 100 at a time. tuned: so, with a user buffer
%% of 64 KiB. frames: messages of 64 bytes, one recv each. batched: frames cut from what comes, one send for all.
-module(ranch_echo).
-behaviour(ranch_protocol).
-export([main/1, start_link/3, init/3]).

main([Port, Mode]) ->
    {ok, _} = application:ensure_all_started(ranch),
    {ok, _} = ranch:start_listener(echo, ranch_tcp,
        #{num_acceptors => 100, max_connections => infinity,
          socket_opts => [{ip, {127,0,0,1}}, {port, list_to_integer(Port)}, {backlog, 4096}, {nodelay, true}]},
        ?MODULE, list_to_atom(Mode)),
    receive stop -> ok end.

start_link(Ref, Transport, Mode) -> {ok, spawn_link(?MODULE, init, [Ref, Transport, Mode])}.

init(Ref, T, Mode) ->
    {ok, S} = ranch:handshake(Ref),
    case Mode of
        recv -> recv(S, T, 0);
        frames -> recv(S, T, 64);
        active -> ok = T:setopts(S, [{active, 100}]), active(S, T);
        tuned -> ok = T:setopts(S, [{buffer, 65536}, {active, 100}]), active(S, T);
        batched -> ok = T:setopts(S, [{buffer, 65536}, {active, 100}]), batched(S, T, <<>>)
    end.

recv(S, T, Size) ->
    case T:recv(S, Size, infinity) of
        {ok, Bytes} -> T:send(S, Bytes), recv(S, T, Size);
        _ -> T:close(S)
    end.

active(S, T) ->
    receive
        {tcp, S, Bytes} -> T:send(S, Bytes), active(S, T);
        {tcp_passive, S} -> T:setopts(S, [{active, 100}]), active(S, T);
        {tcp_closed, S} -> ok;
        _ -> T:close(S)
    end.

batched(S, T, Kept) ->
    receive
        {tcp, S, Bytes} ->
            {Frames, Rest} = frames(<<Kept/binary, Bytes/binary>>, []),
            T:send(S, lists:reverse(Frames)),
            batched(S, T, Rest);
        {tcp_passive, S} -> T:setopts(S, [{active, 100}]), batched(S, T, Kept);
        _ -> T:close(S)
    end.

frames(<<Frame:64/binary, Rest/binary>>, Frames) -> frames(Rest, [Frame | Frames]);
frames(Rest, Frames) -> {Frames, Rest}.
